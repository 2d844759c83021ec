"""Replicates of a fit: what its values would have been with other runs, or with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.scaling.budgets import by_budget, cost, named
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.table import Table
from pretrainx.scaling.table import table as make_table

OF_BEST = ("curve", "envelope")  # methods that are fitted to the lowest of many rows
DETERMINED = 3  # points go exactly through L*(C), and leave no residual


def samples(fit: Fit, table: Table, options: FitOptions, method: Any) -> tuple[np.ndarray, int]:
    """float64[S, P], the values of refits of S replicates in their order, and the count of those that failed.

    method: the module of the fit's method; `refit(fit, table)`, or `refit_many(fit, tables)` where it can do many at once.

    resample "run" draws as many runs as there are, with replacement, and takes all rows of each: rows of one run are points of
    one curve and are not independent. Isoflop minima: runs are drawn within their budgets, so that every budget stays.
    resample "noise" adds normal noise to log losses: of size options.noise, else of each row's standard error (Porian et al.
    2024, appendix). L*(C) and envelopes: of the best runs alone, whatever is resampled, since the best of fewer runs is worse
    on average, and the best of noisier ones better; see `about_law`.

    Raises:
      ConfigError: noise of unknown size.
    """
    if options.method == "isoflop":
        table = named(table)
    if options.method == "isoflop" and options.window:
        # The window of the whole table stays: about the lowest of fewer sizes it would reach farther, to a biased minimum.
        table = table.take(_within(fit, table))
        fit = replace(fit, options={**fit.options, "window": 0})
    tables = list(about_law(fit, options) if options.method in OF_BEST else replicates(table, options))
    many = getattr(method, "refit_many", None)
    values = many(fit, tables) if many else np.array([_refitted(method, fit, one) for one in tables])
    values = values.reshape(-1, len(fit.values))
    good = np.isfinite(values).all(axis=1)
    return values[good], int(np.sum(~good))


def about_law(fit: Fit, options: FitOptions) -> Iterator[Table]:
    """options.replicates tables of a row for each point of a frontier: what its laws say, times a drawn point's residuals in N,
    D and L together, which are scaled up by the degrees of freedom; none where the points determine the laws. With seed noise
    the losses are the measured ones and their noise."""
    best = best_runs(fit)
    noisy = _noisy(best, options) if options.resample == "noise" else None
    if len(best) <= DETERMINED and noisy is None:
        return
    law = np.array(FORMS["frontier"].optimum(fit.values, best.flops))
    freedom = np.maximum(len(best) - np.array([[2.0], [2.0], [3.0]]), 1.0)  # values of each of the three
    residual = np.log(np.array([best.parameters, best.tokens, best.loss]) / law) * np.sqrt(len(best) / freedom)
    for number in range(options.replicates):
        random = np.random.default_rng([options.seed, number])
        parameters, tokens, loss = law * np.exp(residual[:, random.integers(len(best), size=len(best))])
        loss = loss if noisy is None else noisy(random).loss
        yield replace(best, parameters=parameters, tokens=tokens, loss=loss)


def best_runs(fit: Fit) -> Table:
    """A row for each point that a frontier was fitted through."""
    points = [one for one in fit.diagnostics.get("minima") or fit.diagnostics["envelope"] if one.get("used", True)]
    column = lambda name: np.array([one[name] for one in points])
    return make_table(*map(column, ("parameters", "tokens", "loss", "flops")), error=column("error"))


def _within(fit: Fit, table: Table) -> np.ndarray:
    """bool[R]: the rows in the windows of the fit's minima."""
    kept = np.zeros(len(table), bool)
    groups = by_budget(table)
    for one in fit.diagnostics["minima"]:
        if one["used"]:
            rows = min(groups, key=lambda rows: abs(np.log(cost(table, rows) / one["flops"])))
            least, most = one["window"]
            sizes = table.parameters[rows]
            kept[rows[(sizes > least * (1 - 1e-9)) & (sizes < most * (1 + 1e-9))]] = True
    return kept


def _refitted(method: Any, fit: Fit, replicate: Table) -> np.ndarray:
    """float64[P]; nan where the replicate allows no fit."""
    try:
        return np.asarray(method.refit(fit, replicate), np.float64)
    except DataError:
        return np.full(len(fit.values), np.nan)


def replicates(table: Table, options: FitOptions) -> Iterator[Table]:
    """options.replicates tables; the k-th depends on (options.seed, k) alone."""
    draw = _noisy(table, options) if options.resample == "noise" else _drawn(table, options)
    for number in range(options.replicates):
        yield draw(np.random.default_rng([options.seed, number]))


def _drawn(table: Table, options: FitOptions) -> Callable[[np.random.Generator], Table]:
    runs = np.array(table.runs)
    rows_of = {run: np.flatnonzero(runs == run) for run in dict.fromkeys(runs.tolist())}
    budget_of = np.zeros(len(table), np.int64)
    for number, rows in enumerate(by_budget(table) if options.method == "isoflop" else ()):
        budget_of[rows] = number
    strata: dict[int, list[str]] = {}
    for run, rows in rows_of.items():
        strata.setdefault(int(budget_of[rows[0]]), []).append(run)

    def draw(random: np.random.Generator) -> Table:
        chosen = [
            rows_of[names[index]] for names in strata.values() for index in random.integers(len(names), size=len(names))
        ]
        return table.take(np.concatenate(chosen))

    return draw


def _noisy(table: Table, options: FitOptions) -> Callable[[np.random.Generator], Table]:
    size = np.full(len(table), options.noise) if options.noise else table.error / table.loss
    if not np.isfinite(size).all():
        raise ConfigError(
            "the size of the seed noise is not known",
            where="--resample=noise",
            why="some rows have no standard error, and --noise is 0",
            do="--noise=0.002 (standard deviation of log loss between seeds), or map a column: --columns=error:COLUMN",
        )
    return lambda random: replace(table, loss=table.loss * np.exp(size * random.standard_normal(len(table))))
