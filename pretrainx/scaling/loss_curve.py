"""L*(C) = E + A (C/C0)^-g through the best run of each budget, without a curve between the sizes.

It needs no minimum inside the sizes, and three budgets are enough, which determine it exactly. N* and D* are those of the best
runs, in steps of the sizes that were run.
"""

from __future__ import annotations

import numpy as np

from pretrainx.scaling import budgets, frontier_form, refusals
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.frontier_form import Points
from pretrainx.scaling.table import Table

LEAST = 3  # budgets


def fit(table: Table, options: FitOptions) -> Fit:
    """DataError: values without a logarithm, fewer than 3 budgets."""
    refusals.check_values(table)
    groups = budgets.by_budget(table)
    refusals.check_count(table, len(groups), LEAST, "budgets")
    best = _best(table, groups)
    minima = [
        {
            "flops": budgets.cost(table, rows),
            "rows": rows.tolist(),
            "used": True,
            "reason": "",
            "best": int(row),
            **{name: float(getattr(table, name)[row]) for name in ("parameters", "tokens", "loss")},
        }
        for rows, row in zip(groups, best, strict=True)
    ]
    return frontier_form.fit_through(_points(table, best), table, best, options, minima=minima)


def refit(fit: Fit, table: Table) -> np.ndarray:
    """float64[P]: the same fit of a resampled table. DataError where fewer than 3 budgets are left."""
    groups = budgets.by_budget(table)
    refusals.check_count(table, len(groups), LEAST, "budgets")
    return frontier_form.refit_through(fit, _points(table, _best(table, groups)))


def _best(table: Table, groups) -> np.ndarray:
    """int[M]: the row of least loss in each budget."""
    return np.array([rows[np.argmin(table.loss[rows])] for rows in groups])


def _points(table: Table, rows) -> Points:
    return Points(table.flops[rows], table.parameters[rows], table.tokens[rows], table.loss[rows])
