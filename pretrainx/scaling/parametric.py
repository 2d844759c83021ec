"""Approach 3: a law L(N, D) by robust regression over all runs (Hoffmann et al. 2022, section 3.3).

A sum of residuals over rows is minimised from many starts with an exact Hessian, the winner is polished by two more optimisers,
and variable projection (projection.py) finds the law again on another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.scaling import budgets, diagnosis, laws, projection, refusals, starts
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Dropped, Fit
from pretrainx.scaling.form import Form
from pretrainx.scaling.frontier_form import cost_of
from pretrainx.scaling.held import hold
from pretrainx.scaling.optimise import Problem, from_many, minimise, polish
from pretrainx.scaling.residuals import Residual
from pretrainx.scaling.table import Table

QUICK = 1e-9  # tolerance of a refit, relative: a replicate needs less than the fit of the data


def fit(table: Table, options: FitOptions = FitOptions(), start: Mapping[str, float] | None = None) -> Fit:
    """The law and how it was found; no intervals (`fitting.fit` adds them).

    Args:
      start: values of a single start, instead of options.starts, for those who reproduce a published fit.

    Raises:
      DataError: counts or losses that have no logarithm, one N, one D, or fewer rows than values that move.
      ConfigError: held values that the form has not, or that contradict each other.
    """
    refusals.check_values(table)
    dropped = far_from_lowest(table, options.near)
    kept = table.take(np.setdiff1d(np.arange(len(table)), [one.row for one in dropped]))
    form = laws.form(options.form)
    refusals.check_sizes(kept, "approach 3")
    refusals.check_tokens(kept, "approach 3")
    problem = problem_of(kept, options, form)
    refusals.check_count(kept, len(kept), len(problem.held.free), "rows, one for each value that moves,")

    if start is None:
        begun = starts.chosen(problem, options.starts, options.seed)
    else:
        centred = problem.held.centred(form.coordinates(start))
        begun = centred[list(problem.held.free)][None]
    found = from_many(problem, begun)
    best, objective = polish(problem, found.free[np.argmin(found.objective)])
    values = values_of(problem, best)
    crossed = projection.cross_check(problem, best, objective) if projection.applies(problem) else {}
    return Fit(
        method="parametric",
        form=form.name,
        values=dict(zip(form.names, values.tolist(), strict=True)),
        cost=cost_of(kept),
        options=asdict(options),
        dropped=dropped,
        rows=len(kept),
        range=tuple(
            (float(column.min()), float(column.max())) for column in (kept.parameters, kept.tokens, kept.flops)
        ),
        diagnostics={**diagnosis.of(problem, found, best, objective), **crossed},
        **table.origin(),
    )


def refit(fit: Fit, table: Table) -> np.ndarray:
    """float64[P]: the fit of a resampled table, from the values of `fit` on. DataError where the table doesn't determine it."""
    values = refit_many(fit, [table])[0]
    if not np.isfinite(values).all():
        raise DataError(
            "a replicate does not determine the law",
            where=refusals.place(table),
            why="its rows have one N or one D, are fewer than the values, or leave them without an optimum",
            do="fit more rows, or a form with fewer values",
        )
    return values


def refit_many(fit: Fit, tables: Sequence[Table]) -> np.ndarray:
    """float64[S, P]: what `refit` gives for each of S tables, all at once; nan where a table doesn't determine the law.

    The tables may differ in anything, the number of rows too.
    """
    options, form = options_of(fit.options), laws.form(fit.form)
    rows = max((len(one) for one in tables), default=0)
    if not rows:
        return np.zeros((len(tables), len(fit.values)))
    column = lambda name: np.log(
        np.stack([np.pad(getattr(one, name), (0, rows - len(one)), mode="edge") for one in tables])
    )
    weight = np.array([[1.0] * len(one) + [0.0] * (rows - len(one)) for one in tables])
    problem = posed(form, options, column("parameters"), column("tokens"), column("unique"), column("loss"), weight)
    centred = problem.held.centred(form.coordinates(fit.values))[list(problem.held.free)]
    found = minimise(problem, np.tile(centred, (len(tables), 1)), QUICK)
    values = values_of(problem, found.free)
    least = len(problem.held.free)
    enough = np.array([_distinct(one, least) for one in tables])
    values[~(found.settled & enough)] = np.nan
    return values


def problem_of(table: Table, options: FitOptions, form: Form) -> Problem:
    """The minimisation that fits a table: one problem."""
    columns = (np.log(getattr(table, name))[None] for name in ("parameters", "tokens", "unique", "loss"))
    return posed(form, options, *columns, np.ones((1, len(table))))


def posed(form: Form, options: FitOptions, x, y, u, measured, weight) -> Problem:
    """Of ln N, ln D, ln U, ln L and how often each row counts: float64[S, R]."""
    middle = float(np.mean(x)), float(np.mean(y))
    held = hold(form, dict(options.fixed), options.equal, middle, float(np.mean(measured)))
    residual = Residual(options.residual, options.delta, options.penalty)
    repeated = u - middle[1] if form.asks_unique else None
    return Problem(form, held, residual, x - middle[0], y - middle[1], repeated, measured, weight)


def values_of(problem: Problem, free: np.ndarray) -> np.ndarray:
    """float64[..., P]: the form's values at float64[..., F]."""
    return problem.form.from_coordinates(problem.held.uncentred(problem.held.full(free)))


def far_from_lowest(table: Table, near: float) -> tuple[Dropped, ...]:
    """Rows whose N is more than a factor `near` from that of their budget's lowest loss; none for 0.

    Rows far from the optimum dominate a parametric fit. Rows of no budget, where others have one, are near to nothing.
    """
    if not near:
        return ()
    dropped = list(budgets.without(table))
    for rows in budgets.by_budget(table):
        budget = budgets.cost(table, rows)
        lowest = table.parameters[rows[np.argmin(table.loss[rows])]]
        for row in rows:
            factor = max(table.parameters[row] / lowest, lowest / table.parameters[row])
            if factor > near * (1 + 1e-12):
                reason = (
                    f"its N is a factor {factor:.3g} from that of the lowest loss at C = {budget:.3g}, above {near:g}"
                )
                dropped.append(Dropped(int(row), table.runs[row], "near", reason))
    return tuple(sorted(dropped, key=lambda one: one.row))


def options_of(stored: Mapping[str, Any]) -> FitOptions:
    """FitOptions of a fit, whose lists may have come from JSON."""
    return FitOptions(**{**stored, "fixed": tuple((name, value) for name, value in stored["fixed"])})


def _distinct(table: Table, least: int) -> bool:
    """Whether there are several N and D and at least so many rows that differ: a row that was drawn twice says nothing new."""
    rows = set(zip(table.parameters, table.tokens, table.loss, strict=True))
    return len(rows) >= least and all(len(set(column)) > 1 for column in (table.parameters, table.tokens))
