"""Approach 2 of Hoffmann et al. 2022: the minimum of each budget's loss over ln N, and power laws through the minima.

D* is the minimum over ln D, and not C / (6 N*), which holds only where C = 6 N D row by row. On a surface whose two exponents
differ, a parabola is not the true shape: the exponents come out right and the intercepts off by some percent, the more so the
wider a budget's sizes; a narrow window lessens it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.scaling import budgets, frontier_form, refusals
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Dropped, Fit
from pretrainx.scaling.frontier_form import Points
from pretrainx.scaling.minimum import MINIMA, drawn, reason
from pretrainx.scaling.table import Table

LEAST = 3  # sizes of a budget, and budgets of a fit
WINDOWS = (0, 2, 3, 5)  # of which a is reported, beside the one that was asked for
DRAWS = 1000  # of noise, for the standard error of a minimum
FEWER = 100  # of them, in each replicate


@dataclass(frozen=True)
class Sizes:
    """One budget, runs of one size averaged.

    rows: int[R] of the table; of_row: int[R], the size of each. The others float64[S], in order of N: ln N, ln D, loss or log
    loss, how many runs, and the standard error of y (nan: unknown).
    """

    rows: np.ndarray
    of_row: np.ndarray
    log_n: np.ndarray
    log_d: np.ndarray
    y: np.ndarray
    counts: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class Minimum:
    """One budget's. parameters, tokens, loss are nan and `reason` is not empty where it has none.

    flops: of the budget. rows: int[R], all of its rows. within: the sizes that the window took. errors: standard errors of
    ln N*, ln D* and ln L*, nan unless they were asked for.
    """

    rows: np.ndarray
    flops: float
    within: Sizes
    reason: str = ""
    parameters: float = np.nan
    tokens: float = np.nan
    loss: float = np.nan
    errors: tuple[float, float, float] = (np.nan,) * 3


def fit(table: Table, options: FitOptions) -> Fit:
    """The frontier through the minima; a budget without one is listed with its reason, and its rows are among the dropped.

    DataError: values that have no logarithm, one N, fewer than 3 budgets with a minimum.
    """
    refusals.check_values(table)
    refusals.check_sizes(table, "approach 2")
    found = minima(table, options)
    used = [one for one in found if not one.reason]
    reasons = [f"C = {one.flops:.3g}, {len(one.rows)} rows: {one.reason or 'has a minimum'}" for one in found]
    refusals.check_count(table, len(used), LEAST, "budgets with a minimum", reasons)
    edges = tuple(
        Dropped(int(row), table.runs[row], "budget without a minimum", one.reason)
        for one in found
        for row in one.rows
        if one.reason
    )
    rows = np.sort(np.concatenate([one.within.rows for one in used]))
    return frontier_form.fit_through(
        _points(used, options),
        table,
        rows,
        options,
        (*budgets.without(table), *edges),
        minima=list(map(_record, found)),
        windows=_windows(table, options),
    )


def refit(fit: Fit, table: Table) -> np.ndarray:
    """float64[P]: the fit of a resampled table; minima are weighted as those of the whole table were.

    An Akima minimum of known noise is the median of fewer draws than that of the fit.

    DataError where fewer than 3 budgets keep a minimum.
    """
    options = FitOptions(**fit.options)
    median = options.minimum == "akima" and options.weights == "error"
    found = minima(table, options if median else replace(options, weights="none"), FEWER)
    used = [one for one in found if not one.reason]
    refusals.check_count(table, len(used), LEAST, "budgets with a minimum")
    if options.weights == "error":
        whole = [one for one in fit.diagnostics["minima"] if one["used"]]
        known = np.log([one["flops"] for one in whole])
        errors = [whole[int(np.argmin(np.abs(known - np.log(one.flops))))]["errors"] for one in used]
        used = [replace(one, errors=tuple(error)) for one, error in zip(used, errors, strict=True)]
    return frontier_form.refit_through(fit, _points(used, options))


def minima(table: Table, options: FitOptions, draws: int = DRAWS) -> list[Minimum]:
    """One for each budget, in order of FLOPs. draws: of noise, where minima are weighted by their errors."""
    groups = [_sizes(table, rows, options) for rows in budgets.by_budget(table)]
    kept = [_window(one, options.window) for one in groups]
    if options.weights == "error":
        kept = _with_noise(kept, table, options)
    generator = np.random.default_rng(options.seed)
    return [
        _minimum(one.rows, budgets.cost(table, one.rows), near, options, generator, draws)
        for one, near in zip(groups, kept, strict=True)
    ]


def _minimum(rows, flops, near: Sizes, options: FitOptions, generator, count: int) -> Minimum:
    none = Minimum(rows, flops, near)
    if len(near.log_n) < LEAST:
        return replace(none, reason=f"{len(near.log_n)} sizes in reach of its lowest, where a minimum needs {LEAST}")
    find = MINIMA[options.minimum]
    backward = np.argsort(near.log_d, kind="stable")
    lengths = len(np.unique(near.log_d))
    if lengths < (len(near.log_d) if options.minimum == "akima" else LEAST):
        return replace(none, reason=f"its {len(near.log_d)} sizes have {lengths} different D")

    def both(y):
        """Positions in ln N and ln D, and the lowest y: float64[K] each, of float64[S, K]."""
        n, lowest = find(near.log_n, y, near.counts)
        return n, find(near.log_d[backward], y[backward], near.counts[backward])[0], lowest

    n, d, lowest = (float(part[0]) for part in both(near.y[:, None]))
    if why := reason(n, "N") or reason(d, "D"):
        return replace(none, reason=why)
    value = np.exp(lowest) if options.scale == "log_loss" else lowest
    one = replace(none, parameters=float(np.exp(n)), tokens=float(np.exp(d)), loss=float(value))
    if options.weights == "none":
        return one
    draws = generator.standard_normal((len(near.y), count))
    noisy = np.stack(both(near.y[:, None] + near.noise[:, None] * draws))
    valid = noisy[:, np.isfinite(noisy).all(axis=0)]
    if valid.shape[1] < count / 2:
        return replace(none, reason=f"only {valid.shape[1]} of {count} draws of noise leave it a minimum")
    spread = valid.std(axis=1) * (1.0 if options.scale == "log_loss" else np.array([1, 1, 1 / value]))
    if options.minimum == "akima":  # as Porian et al. 2024: what most draws say, where single points decide
        n, d, lowest = np.median(valid, axis=1)
        value = np.exp(lowest) if options.scale == "log_loss" else lowest
        one = replace(one, parameters=float(np.exp(n)), tokens=float(np.exp(d)), loss=float(value))
    # An interpolant follows every point: its minimum is not known better than a third of the distance of two sizes.
    share = (1 / 3 if options.minimum == "akima" else 1e-6) / (len(near.y) - 1)
    least = share * np.array([np.ptp(near.log_n), np.ptp(near.log_d), 1e-6])
    return replace(one, errors=tuple(np.maximum(spread, least) * count / valid.shape[1]))


def _sizes(table: Table, rows: np.ndarray, options: FitOptions) -> Sizes:
    parameters, of_row = np.unique(table.parameters[rows], return_inverse=True)
    counts = np.bincount(of_row).astype(np.float64)
    loss = table.loss[rows]
    average = lambda column: np.bincount(of_row, column) / counts
    scale = 1 / loss if options.scale == "log_loss" else np.ones_like(loss)
    error = options.noise * loss if options.noise else table.error[rows]
    return Sizes(
        rows=rows,
        of_row=of_row,
        log_n=np.log(parameters),
        log_d=average(np.log(table.tokens[rows])),
        y=average(np.log(loss) if options.scale == "log_loss" else loss),
        counts=counts,
        noise=np.sqrt(average((error * scale) ** 2) / counts),
    )


def _window(one: Sizes, width: int) -> Sizes:
    """The sizes within `width` of the lowest, 0 takes all."""
    if not width:
        return one
    lowest = int(np.argmin(one.y))
    first, end = max(lowest - width, 0), min(lowest + width + 1, len(one.y))
    mine = (one.of_row >= first) & (one.of_row < end)
    sizes = {name: getattr(one, name)[first:end] for name in ("log_n", "log_d", "y", "counts", "noise")}
    return Sizes(one.rows[mine], one.of_row[mine] - first, **sizes)


def _with_noise(kept: list[Sizes], table: Table, options: FitOptions) -> list[Sizes]:
    """Where the noise of a loss is not known, it is the scatter around all budgets' parabolas."""
    if all(np.isfinite(one.noise).all() for one in kept):
        return kept
    free = sum(len(one.y) - LEAST for one in kept if len(one.y) > LEAST)
    if options.minimum == "akima" or not free:
        raise DataError(
            "minima cannot be weighted by their errors",
            where=refusals.place(table),
            why="the noise of a loss is neither given nor in the table, and these curves go through all points",
            do="say how much log loss varies between seeds: --noise=0.002; or weigh all budgets alike: --weights=none",
        )
    squares = 0.0
    for one in kept:
        if len(one.y) > LEAST:
            fitted = drawn("parabola", one.log_n, one.y, one.counts, one.log_n)
            squares += np.sum(one.counts * (fitted - one.y) ** 2)
    return [replace(one, noise=np.sqrt(squares / free / one.counts)) for one in kept]


def _points(used: list[Minimum], options: FitOptions) -> Points:
    column = lambda name: np.array([getattr(one, name) for one in used])
    errors = tuple(column("errors").T) if options.weights == "error" else None
    return Points(column("flops"), column("parameters"), column("tokens"), column("loss"), errors)


def _windows(table: Table, options: FitOptions) -> dict[str, float | None]:
    """a for several windows: how far the choice moves it. None where fewer than 3 minima are left."""
    exponents = {}
    for window in sorted({*WINDOWS, options.window}):
        found = minima(table, replace(options, window=window, weights="none"))
        used = [one for one in found if not one.reason]
        laws = np.log([(one.flops, one.parameters) for one in used]).T if len(used) >= LEAST else None
        exponents[str(window or "all")] = None if laws is None else frontier_form.power_law(*laws)[1]
    return exponents


def _record(one: Minimum) -> dict:
    """What the file of a fit has of it: plain numbers."""
    return {
        "flops": one.flops,
        "rows": one.rows.tolist(),
        "used": not one.reason,
        "reason": one.reason,
        "parameters": one.parameters,
        "tokens": one.tokens,
        "loss": one.loss,
        "errors": list(map(float, one.errors)),
        "window": np.exp(one.within.log_n[[0, -1]]).tolist(),
    }
