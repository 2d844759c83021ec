"""The compute-optimal frontier as a law: N*(C), D*(C) and L*(C), each of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.scaling import refusals, saturating
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Cost, Dropped, Fit
from pretrainx.scaling.table import Table

NAMES = ("log_n", "a", "log_d", "b", "E", "A", "g", "C0")
HOLDABLE = ("a", "b", "E", "g")
SAME = 1e-6  # FLOPs per token and parameter that differ by less are one factor


@dataclass(frozen=True)
class Frontier:
    """ln N* = log_n + a ln(C/C0), ln D* = log_d + b ln(C/C0), L* = E + A (C/C0)^-g.

    a + b is 1 only where C is proportional to N D row by row. C0 is a constant of the fit, near its data, and not fitted.
    """

    names: tuple[str, ...] = NAMES

    def loss(self, values, parameters, tokens, unique=None):
        """DataError: a frontier has no loss away from itself."""
        raise DataError(
            "a frontier has no loss for an N and D of one's choice",
            where="form: frontier",
            why="approaches 1 and 2 and L(C) say what the best run of a budget reaches, and nothing of the others",
            do="fit a law of N and D: --method=parametric",
        )

    def optimum(self, values, budget, cost: Cost | None = None, unique=None):
        """(N*, D*, L*), float64[...] each, of float64[...] budgets in FLOPs and values, a mapping or float64[..., P].

        `cost` and `unique` have no part in it: the frontier is what was measured.
        """
        log_n, a, log_d, b, E, A, g, C0 = np.moveaxis(numbers(values), -1, 0)
        log_c = np.log(np.asarray(budget, np.float64) / C0)
        return np.exp(log_n + a * log_c), np.exp(log_d + b * log_c), E + A * np.exp(-g * log_c)


FRONTIER = Frontier()


def numbers(values) -> np.ndarray:
    """float64[..., P] in the order of NAMES, of a mapping or of such an array."""
    return np.array([values[name] for name in NAMES] if isinstance(values, Mapping) else values, np.float64)


@dataclass(frozen=True)
class Points:
    """Points of the frontier. Attributes, float64[M] each: flops, parameters, tokens, loss; and the standard errors of the last
    three's logarithms (nan: unknown)."""

    flops: np.ndarray
    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    errors: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


def power_law(log_x, log_y, weights=None, slope: float | None = None) -> tuple[float, float]:
    """(intercept, slope) of ln y over ln x by weighted least squares; with a given slope the intercept alone."""
    log_x, log_y = np.asarray(log_x, np.float64), np.asarray(log_y, np.float64)
    weights = np.ones_like(log_x) if weights is None else np.asarray(weights, np.float64)
    centre, level = np.average(log_x, weights=weights), np.average(log_y, weights=weights)
    if slope is None:
        away = log_x - centre
        slope = float(np.sum(weights * away * (log_y - level)) / np.sum(weights * away**2))
    return float(level - slope * centre), float(slope)


def through(
    points: Points, C0: float, fixed: Mapping[str, float] = {}
) -> tuple[dict[str, float], saturating.Saturating]:
    """The values of the frontier through points, and how its L*(C) was found. Weights are 1 / error^2, if errors are given."""
    log_c = np.log(points.flops / C0)
    of_n, of_d, of_loss = (None if points.errors is None else 1 / error**2 for error in points.errors or (None,) * 3)
    log_n, a = power_law(log_c, np.log(points.parameters), of_n, fixed.get("a"))
    log_d, b = power_law(log_c, np.log(points.tokens), of_d, fixed.get("b"))
    curve = saturating.solve(log_c, points.loss, of_loss, fixed)
    return dict(zip(NAMES, (log_n, a, log_d, b, curve.E, curve.A, curve.g, C0), strict=True)), curve


def fit_through(
    points: Points, table: Table, rows, options: FitOptions, dropped: tuple[Dropped, ...] = (), **diagnostics: Any
) -> Fit:
    """The Fit of a frontier through points that were found in `rows` of a table."""
    fixed = refusals.check_fixed(options.fixed, HOLDABLE, "frontier")
    values, curve = through(points, float(np.exp(np.mean(np.log(points.flops)))), fixed)
    predicted = FRONTIER.optimum(values, points.flops)
    actual = (points.parameters, points.tokens, points.loss)
    scatter = {
        name: float(np.sqrt(np.mean(np.log(was / is_) ** 2)))
        for name, was, is_ in zip(("parameters", "tokens", "loss"), actual, predicted, strict=True)
    }
    fitted = table.take(rows)
    return Fit(
        method=options.method,
        form="frontier",
        values=values,
        cost=cost_of(fitted),
        options=asdict(options),
        dropped=dropped,
        rows=len(fitted),
        range=tuple(
            (float(column.min()), float(column.max())) for column in (fitted.parameters, fitted.tokens, fitted.flops)
        ),
        diagnostics={
            **diagnostics,
            "points": len(points.flops),
            "scatter": scatter,  # root mean square of log residuals around the three laws
            "objective": curve.objective,
            "g_interval": curve.exponents,
            "E_interval": curve.floors,
            "notes": [*diagnostics.get("notes", ()), *curve.notes],
        },
        **table.origin(),
    )


def refit_through(fit: Fit, points: Points) -> np.ndarray:
    """float64[P]: the same fit of other points, around the same C0."""
    return numbers(through(points, fit.values["C0"], dict(fit.options.get("fixed", ())))[0])


def cost_of(table: Table) -> Cost:
    """FLOPs per token over N, as the rows have them: one factor where C = k N D, else a point for each N."""
    factors = table.flops / (table.parameters * table.tokens)
    if factors.max() - factors.min() <= SAME * factors.max():
        return Cost(factor=float(np.median(factors)))
    sizes, of_row = np.unique(table.parameters, return_inverse=True)
    logs = np.bincount(of_row, np.log(table.flops / table.tokens)) / np.bincount(of_row)
    return Cost(points=tuple((float(size), float(np.exp(log))) for size, log in zip(sizes, logs, strict=True)))
