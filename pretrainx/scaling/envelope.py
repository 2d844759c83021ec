"""Approach 1 of Hoffmann et al. 2022: the lower envelope of training curves over compute, and power laws along it.

It reads tables with several rows of a run, one for each checkpoint. Points in the middle of a long schedule are not tuned runs
of their length: the envelope of cosine curves lies above that of runs that were ended where they are read.
"""

from __future__ import annotations

import numpy as np

from pretrainx.scaling import frontier_form, refusals
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.frontier_form import Points
from pretrainx.scaling.table import Table

LEAST = 3  # points of an envelope
COLUMNS = ("flops", "parameters", "tokens", "loss")


def fit(table: Table, options: FitOptions) -> Fit:
    """The frontier along the envelope.

    DataError: values without a logarithm, one N, an envelope of under 3 points or of one N.
    """
    refusals.check_values(table)
    refusals.check_sizes(table, "approach 1")
    rows = _rows(table, options)
    reached = lambda row: {name: float(getattr(table, name)[row]) for name in (*COLUMNS, "error")}
    envelope = [{"row": int(row), "run": table.runs[row], **reached(row)} for row in rows]
    return frontier_form.fit_through(_points(table, rows), table, rows, options, envelope=envelope)


def refit(fit: Fit, table: Table) -> np.ndarray:
    """float64[P]: the same laws along another envelope, a row for each of its points."""
    return frontier_form.refit_through(fit, _points(table, slice(None)))


def _points(table: Table, rows) -> Points:
    return Points(*(getattr(table, name)[rows] for name in COLUMNS))


def _rows(table: Table, options: FitOptions) -> np.ndarray:
    """int[M], in order of C."""
    rows = hull(table.flops, table.loss) if options.hull == "hull" else bins(table.flops, table.loss, options.bins)
    refusals.check_count(table, len(rows), LEAST, "points on the envelope, where the loss falls with C,")
    refusals.check_sizes(table.take(rows), "the envelope")
    return rows


def hull(flops, loss) -> np.ndarray:
    """int[M]: the points of the lower convex hull of (ln C, ln L), as far as L falls with C."""
    x, y = np.log(flops), np.log(loss)
    chain: list[int] = []
    for point in np.lexsort((y, x)):
        if chain and x[point] == x[chain[-1]]:
            continue  # the same C with a higher loss
        while len(chain) > 1 and _turn(x, y, chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(int(point))
    rows = np.array(chain)
    return rows[: int(np.argmin(y[rows])) + 1]


def bins(flops, loss, number: int) -> np.ndarray:
    """int[M]: the lowest loss of each of `number` equal bins of ln C, where it is below those of all bins before."""
    x = np.log(flops)
    bin_of = np.minimum(((x - x.min()) / max(np.ptp(x), 1e-300) * number).astype(int), number - 1)
    order = np.lexsort((x, loss, bin_of))
    best = order[np.unique(bin_of[order], return_index=True)[1]]
    before = np.concatenate([[np.inf], np.minimum.accumulate(loss[best])[:-1]])
    return best[loss[best] < before]


def _turn(x, y, first, second, third) -> float:
    """Above 0 where the way from the first point over the second to the third turns upwards."""
    return (x[second] - x[first]) * (y[third] - y[first]) - (y[second] - y[first]) * (x[third] - x[first])
