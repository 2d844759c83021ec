"""Rows that are far from what the others say: found by a named rule, listed with the reason, never dropped in silence."""

from __future__ import annotations

import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.scaling.budgets import by_budget
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import OF_FILE, Dropped, Fit
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.table import Table

RULE = "residual"
TO_NORMAL = 1.4826  # a normal's standard deviation over the median of its absolute deviations
FLOOR = 1e-6  # of log loss: three rows lie on each least-absolute parabola and say nothing of the noise
DEGREE = 2  # of the curve of a budget


def found(table: Table, first: Fit, options: FitOptions) -> tuple[Dropped, ...]:
    """The rows that the rule of `options` leaves out of the fit; `first` is the fit of all rows.

    Rule "residual": |residual - median| over the robust standard deviation (of all rows) is above options.threshold.
    Residuals are of log loss: from the fitted law, or, for isoFLOP minima, from the parabola of a row's budget in ln N, which
    is fitted by least absolute deviations, so that an outlier doesn't draw it to itself.

    Raises:
      ConfigError: the rule has no meaning for the method.
    """
    if options.outliers == "none":
        return ()
    residual = residuals(table, first)
    center = np.nanmedian(residual)
    off = np.abs(residual - center)
    spread = max(TO_NORMAL * np.median(off[off > FLOOR]), FLOOR) if (off > FLOOR).any() else FLOOR
    away = (residual - center) / spread
    return tuple(
        Dropped(
            int(row),
            table.runs[row],
            RULE,
            f"log loss {residual[row]:+.4g} from the {_what(first)}: {abs(away[row]):.1f} robust standard deviations, "
            f"the limit is {options.threshold:g}",
        )
        for row in np.flatnonzero(np.abs(away) > options.threshold)
    )


def residuals(table: Table, fit: Fit) -> np.ndarray:
    """float64[R]: ln(loss) minus what the fit (or the budget's curve) says; nan where it says nothing: rows that a parametric
    fit left out, budgets of too few sizes."""
    if fit.method == "parametric":
        law = FORMS[fit.form].loss(fit.values, table.parameters, table.tokens, table.unique)
        residual = np.log(table.loss) - np.log(law)
        residual[[one.row for one in fit.dropped if one.rule not in OF_FILE]] = np.nan
        return residual
    if fit.method == "isoflop":
        return _from_parabolas(table)
    raise ConfigError(
        f"the rule {RULE!r} has no meaning for the method {fit.method!r}",
        where="--outliers",
        why="only a law of every row, or a curve of every budget, says how far off a row is",
        do="--method=parametric or isoflop, or leave rows out by --where",
    )


def _what(fit: Fit) -> str:
    return "fitted law" if fit.method == "parametric" else "parabola of its budget"


def _from_parabolas(table: Table) -> np.ndarray:
    found = np.full(len(table), np.nan)
    for rows in by_budget(table):
        size, loss = np.log(table.parameters[rows]), np.log(table.loss[rows])
        if len(np.unique(size)) > DEGREE + 2:  # of fewer rows, each lies on the curve of the others
            curve = least_absolute(size, loss)
            found[rows] = loss - np.polyval(curve, size - size.mean())
    return found


def least_absolute(size: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """float64[3]: the parabola in (size - mean) with the least sum of absolute deviations, by linear programming."""
    from scipy.optimize import linprog

    powers = np.vander(size - size.mean(), DEGREE + 1)
    rows = len(size)
    price = np.concatenate([np.zeros(DEGREE + 1), np.ones(2 * rows)])
    equal = np.hstack([powers, np.eye(rows), -np.eye(rows)])
    bounds = [(None, None)] * (DEGREE + 1) + [(0, None)] * (2 * rows)
    return linprog(price, A_eq=equal, b_eq=loss, bounds=bounds).x[: DEGREE + 1]
