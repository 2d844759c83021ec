"""Which rows of a table belong to one budget."""

from __future__ import annotations

import numpy as np

from pretrainx.scaling.table import Table

GAP = 0.1  # rows without a budget whose C differ by less are one budget's: tokens are rounded to whole steps


def by_budget(table: Table) -> list[np.ndarray]:
    """Row numbers of each budget, int[S] in order of N, budgets in order of their training FLOPs.

    The budget column only says which rows belong together. What a budget costs is read from the FLOPs of its rows: a budget's
    name may count forward FLOPs only, or be rounded. Rows without one are grouped where C differs by under 10 %.
    """
    named = np.isfinite(table.budget)
    groups = [np.flatnonzero(table.budget == budget) for budget in np.unique(table.budget[named])]
    rest = np.flatnonzero(~named)
    order = rest[np.argsort(table.flops[rest], kind="stable")]
    if len(order):
        groups += np.split(order, np.flatnonzero(np.diff(np.log(table.flops[order])) > np.log1p(GAP)) + 1)
    groups = [rows[np.lexsort((table.tokens[rows], table.parameters[rows]))] for rows in groups]
    return sorted(groups, key=lambda rows: cost(table, rows))


def cost(table: Table, rows) -> float:
    """Training FLOPs of a budget: the geometric mean of its rows'."""
    return float(np.exp(np.mean(np.log(table.flops[rows]))))
