"""L*(C) = E + A (C/C0)^-g through the best run of each budget, without a curve between the sizes.

It needs no minimum inside the sizes, and three budgets are enough, which determine it exactly. N* and D* are those of the best
runs, in steps of the sizes that were run. A budget of fewer than three sizes has no part in it: the better of two says little
of the best. Where budgets have names and none has three sizes, the table is taken for one of best runs, and the fit says so.
"""

from __future__ import annotations

import numpy as np

from pretrainx.scaling import budgets, frontier_form, refusals
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Dropped, Fit
from pretrainx.scaling.frontier_form import Points
from pretrainx.scaling.table import Table

LEAST = 3  # budgets
SIZES = 3  # of a budget
BEST_RUNS = f"no budget has {SIZES} sizes: each budget's lowest is taken for the best that it allows"


def fit(table: Table, options: FitOptions) -> Fit:
    """DataError: values without a logarithm, fewer than 3 budgets."""
    refusals.check_values(table)
    groups = budgets.by_budget(table)
    sizes = [len(np.unique(table.parameters[rows])) for rows in groups]
    of_best = np.isfinite(table.budget).any() and max(sizes) < SIZES
    why = "{} of the {} sizes that the best of a budget needs"
    reasons = ["" if of_best or count >= SIZES else why.format(count, SIZES) for count in sizes]
    best = _best(table, groups)
    minima = [
        {
            "flops": budgets.cost(table, rows),
            "rows": rows.tolist(),
            "used": not reason,
            "reason": reason,
            "best": int(row),
            **{name: float(getattr(table, name)[row]) for name in ("parameters", "tokens", "loss", "error")},
        }
        for rows, row, reason in zip(groups, best, reasons, strict=True)
    ]
    said = [f"C = {one['flops']:.3g}: {one['reason'] or 'has a best run'}" for one in minima]
    used = best[[not reason for reason in reasons]]
    do = "if rows are the best runs of their budgets, say so by --columns=budget:COLUMN"
    refusals.check_count(table, len(used), LEAST, "budgets", said, do)
    small = {row: one["reason"] for one in minima if one["reason"] for row in one["rows"]}
    few = (Dropped(row, table.runs[row], "few sizes", reason) for row, reason in sorted(small.items()))
    dropped = (*budgets.without(table), *few)
    notes = (BEST_RUNS,) if of_best else ()
    return frontier_form.fit_through(_points(table, used), table, used, options, dropped, minima=minima, notes=notes)


def refit(fit: Fit, table: Table) -> np.ndarray:
    """float64[P]: the same laws through other best runs, a row each."""
    return frontier_form.refit_through(fit, _points(table, slice(None)))


def _best(table: Table, groups) -> np.ndarray:
    """int[M]: the row of least loss in each budget."""
    return np.array([rows[np.argmin(table.loss[rows])] for rows in groups])


def _points(table: Table, rows) -> Points:
    return Points(table.flops[rows], table.parameters[rows], table.tokens[rows], table.loss[rows])
