"""Does a law predict what it has not seen: fit on the budgets below one, say its best loss, and look; then the next budget.

The same for what is said without a law: the last budget's best loss, and a straight line through what the 20:1 rule reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.scaling import budgets, isoflop, predictions
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.fitting import fit
from pretrainx.scaling.frontier_form import cost_of, power_law
from pretrainx.scaling.minimum import drawn
from pretrainx.scaling.ratio import RATIO, at_ratio
from pretrainx.scaling.table import Table

LEAST = 2  # budgets below the one that is held out

# What is chosen among where a caller names nothing: ways that work from few budgets on.
CANDIDATES = (
    FitOptions(),
    FitOptions(residual="log_mse"),
    FitOptions(equal=True),
    FitOptions(near=3.0),
    FitOptions(form="kaplan"),
    FitOptions(method="isoflop"),
    FitOptions(method="curve"),
)


@dataclass(frozen=True)
class Reached:
    """The best loss of one budget. how: "minimum" of its isoFLOP curve where it has one, else "best run"."""

    budget: float
    loss: float
    how: str


@dataclass(frozen=True)
class HeldOut:
    """One budget, predicted from those below it.

    Attributes:
      budget: in FLOPs. actual: its best loss. how: what that is (Reached). runs: names of its runs.
      predicted: L* of the fit at this budget. low, high: in which a new measurement is expected at predictions.LEVEL; nan where
        nothing is known of it.
      last: the best loss of the largest budget that was fitted, the first baseline. rule: the second, see `by_rule`.
      fit: what it was predicted from.
    """

    budget: float
    actual: float
    how: str
    runs: tuple[str, ...]
    predicted: float
    low: float
    high: float
    last: float
    rule: float
    fit: Fit

    def error(self, said: float | None = None) -> float:
        """(said - actual) / actual, of the prediction or of a baseline."""
        return ((self.predicted if said is None else said) - self.actual) / self.actual

    @property
    def inside(self) -> bool:
        return self.low <= self.actual <= self.high

    @property
    def half_width(self) -> float:
        """Half the interval over the prediction: 0.03 is +-3%."""
        return (self.high - self.low) / 2 / self.predicted

    @property
    def gap(self) -> float:
        """How much the best loss fell from the last fitted budget to this one."""
        return self.last - self.actual

    @property
    def share(self) -> float:
        """|predicted - actual| over that gap: 1 is no better than saying that nothing changes."""
        return abs(self.predicted - self.actual) / abs(self.gap) if self.gap else np.inf


def best_of(table: Table, window: int = 0) -> Reached:
    """Of rows of one budget: the minimum of the parabola in ln N, else the best run's loss.

    The fit that is judged has no part in it, so that all fits are held against the same number.
    """
    one = isoflop.minima(table, FitOptions(method="isoflop", window=window))[0]
    if not one.reason:
        return Reached(one.flops, float(one.loss), "minimum")
    return Reached(one.flops, float(table.loss.min()), "best run")


def by_rule(table: Table, below: Sequence[np.ndarray], budget: float, ratio: float = RATIO) -> float:
    """The loss that is expected of a budget by who trains 20 tokens per parameter and draws a line.

    At each budget below, the loss at D = 20 N is read off the parabola through its runs (at the nearest end, where no run is as
    small or as large); the line is straight in ln loss over ln C, through all of them. It has the same runs as the fit.
    """
    cost = cost_of(table.take(np.concatenate(below)))
    points = []
    for rows in below:
        size, loss = np.log(table.parameters[rows]), table.loss[rows]
        flops = budgets.cost(table, rows)
        at = float(np.clip(np.log(at_ratio(flops, ratio, cost)), size.min(), size.max()))
        bent = len(np.unique(size)) >= isoflop.LEAST
        read = (
            drawn("parabola", size, loss, np.ones(len(size)), np.array([at]))[0] if bent else np.interp(at, size, loss)
        )
        points.append((np.log(flops), np.log(read)))
    level, slope = power_law(*np.array(points).T)
    return float(np.exp(level + slope * np.log(budget)))


def hold_out(table: Table, options: FitOptions, last: int = -1) -> HeldOut:
    """Budget number `last` (in order of FLOPs; default the largest) predicted from all below it.

    Raises:
      DataError: too few budgets below, too few sizes in it, or the fit's own refusals.
    """
    groups = budgets.by_budget(table)
    groups = groups[: len(groups) + 1 + last if last < 0 else last + 1]
    below = groups[:-1]
    if len(below) < LEAST:
        raise DataError(
            "there is nothing to hold a prediction against",
            where=table.source or "the table",
            why=f"{len(below)} budgets below the one that is held out; {LEAST} are the least",
            do="run more budgets, or name them by a column: --columns=budget:COLUMN",
        )
    known, held = table.take(np.concatenate(below)), table.take(groups[-1])
    if (sizes := len(np.unique(held.parameters))) < isoflop.LEAST:
        raise DataError(
            "what the held-out budget reaches at its best is not known",
            where=f"{table.source or 'the table'}, C = {budgets.cost(table, groups[-1]):.4g}",
            why=f"it has {sizes} size{'' if sizes == 1 else 's'}, such as a ladder's; {isoflop.LEAST} are the least that show "
            "where the best one lies",
            do="run more sizes at this budget",
        )
    reached, before = best_of(held), best_of(table.take(below[-1]))
    found = fit(known, options, budgets.without(table))
    said = predictions.best(found, [reached.budget], noise=predictions.scatter(found, known))[0]
    low, high = said.loss_reach or (np.nan, np.nan)
    return HeldOut(
        reached.budget,
        reached.loss,
        reached.how,
        tuple(dict.fromkeys(held.runs)),
        said.loss,
        low,
        high,
        before.loss,
        by_rule(table, below, reached.budget),
        found,
    )


def roll(table: Table, options: FitOptions) -> list[HeldOut]:
    """Every budget that those below it allow to be predicted, from the least on; [] where none is."""
    found = []
    for number in range(LEAST, len(budgets.by_budget(table))):
        try:
            found.append(hold_out(table, options, number))
        except DataError:  # so few budgets allow no such fit; the next has one more
            continue
    return found


def choose(
    table: Table, candidates: Sequence[FitOptions] = CANDIDATES
) -> tuple[FitOptions, list[tuple[FitOptions, float, int]]]:
    """The options whose predictions inside `table` were best, and of each the mean |relative error| and how many it made.

    Give it the rows that will be fitted and no others: what is held out later must have no part in the choice. Each candidate
    is rolled forward; one that predicts fewer budgets than another is not preferred for it, so errors are compared over the
    budgets that a candidate shares with the first one, which works from two budgets on.
    """
    quick = [replace(options, replicates=0) for options in candidates]
    rolled = [{one.budget: one for one in roll(table, options)} for options in quick]
    shared = rolled[0]
    scores = []
    for options, found in zip(candidates, rolled, strict=True):
        both = [budget for budget in found if budget in shared]
        own, first = (
            float(np.mean([abs(which[budget].error()) for budget in both])) if both else np.inf
            for which in (found, shared)
        )
        scores.append((options, own, len(both), own / first if both and first else np.inf))
    chosen = min(scores, key=lambda score: score[3])[0] if shared else candidates[0]
    return chosen, [score[:3] for score in scores]


def words(options: FitOptions) -> str:
    """A choice of a fit in short, such as "parametric chinchilla huber near=3"."""
    if options.method != "parametric":
        return options.method
    more = [options.residual, *(["alpha = beta"] if options.equal else [])]
    return " ".join([options.form, *more, *([f"near={options.near:g}"] if options.near else [])])


HEADER = (
    "budget",
    "predicted",
    f"{predictions.LEVEL:.0%} interval",
    "+-",
    "actual",
    "error",
    "inside",
    "last point",
    "20:1 rule",
    "of the gap",
)


def row(one: HeldOut) -> tuple[str, ...]:
    """Cells under HEADER; baselines are shown by their relative errors."""
    known = np.isfinite(one.low)
    return (
        f"{one.budget:.4g}",
        f"{one.predicted:.5g}",
        f"{one.low:.5g} .. {one.high:.5g}" if known else "-",
        f"{one.half_width:.2%}" if known else "-",
        f"{one.actual:.5g} ({one.how})",
        f"{one.error():+.2%}",
        ("yes" if one.inside else "no") if known else "-",
        f"{one.error(one.last):+.2%}",
        f"{one.error(one.rule):+.2%}",
        f"{one.share:.0%}",
    )
