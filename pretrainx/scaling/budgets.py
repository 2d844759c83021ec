"""Which rows of a table belong to one budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pretrainx.scaling.fits import Dropped
from pretrainx.scaling.table import Table

GAP = 0.1  # rows whose C differ by less are one budget's where none is named: tokens are rounded to whole steps
RULE = "no budget"


def by_budget(table: Table) -> list[np.ndarray]:
    """Row numbers of each budget, int[S] in order of N, budgets in order of their training FLOPs.

    The budget column only says which rows belong together. What a budget costs is read from the FLOPs of its rows: a budget's
    name may count forward FLOPs only, or be rounded. Where no row has one, rows are a budget's whose C is at most 10 % above
    that of its first. Where some rows have one, the others belong to none (`without` lists them): a ladder's rungs beside
    isoFLOP curves are no curve.
    """
    named = np.isfinite(table.budget)
    groups = [np.flatnonzero(table.budget == budget) for budget in np.unique(table.budget[named])] or _alike(
        table.flops
    )
    groups = [rows[np.lexsort((table.tokens[rows], table.parameters[rows]))] for rows in groups]
    return sorted(groups, key=lambda rows: cost(table, rows))


def without(table: Table) -> tuple[Dropped, ...]:
    """The rows that belong to no budget, although others do."""
    named = np.isfinite(table.budget)
    reason = "it was planned for no budget, and other rows were"
    return (
        tuple(Dropped(int(row), table.runs[row], RULE, reason) for row in np.flatnonzero(~named)) if named.any() else ()
    )


def named(table: Table) -> Table:
    """The table with a budget in each row of `by_budget`, so that rows that are drawn from it stay in theirs."""
    if np.isfinite(table.budget).any():
        return table
    budget = np.full(len(table), np.nan)
    for rows in by_budget(table):
        budget[rows] = cost(table, rows)
    return replace(table, budget=budget)


def _alike(flops: np.ndarray) -> list[np.ndarray]:
    """int[S] for each group of rows whose C is at most 10 % above the group's least."""
    groups, left = [], np.argsort(flops, kind="stable")
    while len(left):
        count = int(np.searchsorted(flops[left], flops[left[0]] * (1 + GAP), side="right"))
        groups.append(left[:count])
        left = left[count:]
    return groups


def cost(table: Table, rows) -> float:
    """Training FLOPs of a budget: the geometric mean of its rows'."""
    return float(np.exp(np.mean(np.log(table.flops[rows]))))
