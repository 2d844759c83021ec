"""What a fit says at budgets of one's choice: N*, D*, L* with intervals, and what other sizes at the same budget cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from pretrainx.core.readable import quantity
from pretrainx.scaling import delta
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.ratio import RATIO, at_ratio
from pretrainx.scaling.table import Table

LEVEL = 0.9
REACH = 10.0  # optima are shown at the largest budget that was fitted, and at so many times it
DECADE = float(np.log(10))
FEWEST = 20  # replicates: of fewer, percentiles say nothing
Function = Callable[[Mapping[str, float]], np.ndarray]


@dataclass(frozen=True)
class Best:
    """The compute-optimal run of a budget in FLOPs.

    Attributes:
      parameters, tokens, loss: N*, D*, L*. The `_interval` of each is where the law itself lies, (low, high) at a level, None
        where the fit has neither replicates nor a covariance.
      loss_reach: (low, high) in which one new run is expected, the scatter of runs about the law included; None where that is
        not known.
      beyond: the budget over the largest that was fitted; above 1 it is extrapolated.
    """

    budget: float
    parameters: float
    tokens: float
    loss: float
    parameters_interval: tuple[float, float] | None = None
    tokens_interval: tuple[float, float] | None = None
    loss_interval: tuple[float, float] | None = None
    loss_reach: tuple[float, float] | None = None
    beyond: float = 1.0


def optimum(fit: Fit, budget, unique: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N*, D*, L*: float64[...] at budgets in FLOPs. unique: U, how many different tokens there are; None: no limit."""
    return FORMS[fit.form].optimum(fit.values, np.asarray(budget, np.float64), fit.cost, unique)


def along(fit: Fit, values, budgets: Sequence[float], unique: float | None = None) -> np.ndarray:
    """float64[..., 3 K]: ln N* at K budgets, then ln D*, then ln L*, of a mapping or of float64[..., P], as replicates are.

    Budgets come one at a time: along a measured cost the search has a grid for each replicate.
    """
    form = FORMS[fit.form]
    found = np.stack([form.optimum(values, np.float64(one), fit.cost, unique) for one in budgets], 1)
    return np.log(np.moveaxis(found.reshape(-1, *found.shape[2:]), 0, -1))


def asks_unique(fit: Fit) -> bool:
    """Whether the fit's law takes it that a token may be read again."""
    return getattr(FORMS[fit.form], "asks_unique", False)


def drawn(fit: Fit, function: Function) -> np.ndarray:
    """float64[S, K]: what `function` of the values is in each replicate; S is 0 where there are none."""
    found = [np.atleast_1d(function(dict(zip(fit.values, one, strict=True)))) for one in fit.samples]
    return np.array(found) if found else np.zeros((0, len(np.atleast_1d(function(fit.values)))))


def intervals(
    fit: Fit,
    function: Function,
    level: float = LEVEL,
    noise: float | np.ndarray = 0.0,
    found: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """(low, high): float64[K] each, of a float64[K] that `function` computes from the values.

    Percentiles of the replicates; where there are too few, normal about the estimate with the delta method's errors. noise: the
    standard deviation of what is measured about the law, in the function's unit, for the interval of a new measurement. found:
    float64[S, K] of the replicates, where the caller has them all at once. None where the fit has neither replicates nor a
    covariance and there is no noise.
    """
    at = np.atleast_1d(function(fit.values))
    tail = (1 - level) / 2
    if len(fit.samples) >= FEWEST:
        found = drawn(fit, function) if found is None else found
        random = np.random.default_rng(0)  # the interval of a fit is a fact about it, the same each time
        moved = found + noise * random.standard_normal(found.shape)
        return tuple(np.nanquantile(moved, (tail, 1 - tail), axis=0))
    errors = delta.errors(fit, function)
    if errors is None and not np.any(noise):
        return None
    reach = -ndtri(tail) * np.sqrt((0.0 if errors is None else errors**2) + np.square(noise))
    return at - reach, at + reach


def interval(
    fit: Fit, function: Callable, level: float = LEVEL, noise: float = 0.0, found: np.ndarray | None = None
) -> tuple[float, float] | None:
    """(low, high) of one number that `function` computes from the values; see `intervals`."""
    found = intervals(fit, function, level, noise, found)
    return None if found is None else (float(found[0][0]), float(found[1][0]))


def scatter(fit: Fit, table: Table | None = None) -> float | None:
    """The standard deviation of log loss about the law, of fitted rows (for a frontier, of minima); None: not known.

    The noise between seeds where the fit was told it, else what the fit left over. `table`: of the fitted rows; without it,
    what the fit has of them.
    """
    if fit.options.get("noise"):
        return float(fit.options["noise"])
    if fit.form == "frontier":
        points, left = fit.diagnostics.get("points", 0), fit.diagnostics.get("scatter", {}).get("loss")
        return left * np.sqrt(points / (points - 3)) if left and points > 3 else left  # L*(C) has three values
    if table is None:
        return fit.diagnostics.get("scatter", {}).get("loss")
    law = FORMS[fit.form].loss(fit.values, table.parameters, table.tokens, table.unique)
    away = np.log(table.loss / law)
    return float(1.4826 * np.median(np.abs(away - np.median(away))) * np.sqrt(len(away) / max(len(away) - 5, 1)))


def best(
    fit: Fit,
    budgets: Sequence[float],
    level: float = LEVEL,
    noise: float | None = None,
    unique: float | None = None,
) -> list[Best]:
    """A row for each budget; noise: of log loss, as `scatter` gives it. unique: as in `optimum`."""
    budgets = np.asarray(budgets, np.float64)
    count = len(budgets)
    logs = lambda values: along(fit, values, budgets, unique)
    losses = lambda values: logs(values)[..., 2 * count :]
    estimate = np.exp(logs(fit.values)).reshape(3, count)
    found = logs(fit.samples) if len(fit.samples) >= FEWEST else None
    law, reach = intervals(fit, logs, level, found=found), None
    if noise is not None and (law is not None or noise):
        reach = intervals(fit, losses, level, noise, None if found is None else found[:, 2 * count :])
    law = None if law is None else np.exp(np.array(law)).reshape(2, 3, count)
    reach = None if reach is None else np.exp(np.array(reach))
    pair = lambda which, i: None if law is None else tuple(law[:, which, i].tolist())
    return [
        Best(
            float(budget),
            *estimate[:, i].tolist(),
            *(pair(which, i) for which in range(3)),
            None if reach is None else tuple(reach[:, i].tolist()),
            float(budget / fit.range[2][1]),
        )
        for i, budget in enumerate(budgets)
    ]


def exponents(fit: Fit, budget: float, unique: float | None = None) -> np.ndarray:
    """float64[S]: a in each replicate: the slope of ln N* over ln C across the decade about a budget.

    Not the slope at a point: FLOPs per token have kinks where sizes were measured, at which N* rests or leaps.
    """
    pair = budget * np.exp(np.array([-0.5, 0.5]) * DECADE)
    found = along(fit, fit.samples, pair, unique)
    return (found[:, 1] - found[:, 0]) / DECADE


def at_rule(fit: Fit, budget: float, ratio: float = RATIO) -> tuple[float, float]:
    """N and D of a budget at a ratio of tokens to parameters, by the fit's own cost."""
    size = at_ratio(budget, ratio, fit.cost)
    return size, ratio * size


def extrapolated(fit: Fit, parameters=None, tokens=None, budget=None) -> list[str]:
    """What of a question lies outside the rows that were fitted, a sentence each."""
    said = []
    for name, asked, (least, most) in zip("NDC", (parameters, tokens, budget), fit.range, strict=True):
        if asked is not None and asked > most * 1.001:
            said.append(
                f"{name} = {_plain(asked)} is {asked / most:.3g} times the most that was fitted ({_plain(most)})"
            )
        elif asked is not None and asked < least / 1.001:
            said.append(
                f"{name} = {_plain(asked)} is a {least / asked:.3g}th of the least that was fitted ({_plain(least)})"
            )
    return said


def _plain(number: float) -> str:
    return quantity(number) if number < 1e13 else f"{number:.3g}"
