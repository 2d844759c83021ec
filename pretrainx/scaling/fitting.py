"""From a table to a Fit: outliers by a named rule, the method, standard errors by the delta method, replicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from pretrainx.scaling import bootstrap, delta, envelope, isoflop, loss_curve, outliers, parametric, refusals
from pretrainx.scaling.cautions import cautions
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import Dropped, Fit
from pretrainx.scaling.table import Table

# Approaches 1, 2 and 3 of Hoffmann et al. 2022, and L*(C) alone. Each module has fit(table, options) -> Fit, a point estimate
# with diagnostics, and refit(fit, table) -> float64[P] of a resampled table, from the values of that fit on.
METHODS = {"envelope": envelope, "isoflop": isoflop, "parametric": parametric, "curve": loss_curve}


def fit(table: Table, options: FitOptions = FitOptions(), left_out: Sequence[Dropped] = ()) -> Fit:
    """The whole fit, with intervals.

    Where an outlier rule is on, diagnostics["all_rows"] holds the values of the fit of all rows, to be shown beside those of
    the fit without them. `dropped` lists every row that had no part in the result: `left_out` (by who made the table),
    outliers, and what the method itself leaves out.

    Raises:
      DataError: the table allows no such fit. ConfigError: options that do not go together, or that the method does not read.
    """
    refusals.check_options(options)
    refusals.check_values(table)
    method = METHODS[options.method]
    found = method.fit(table, options)
    outlying = outliers.found(table, found, options)
    diagnostics = {}
    rows = np.setdiff1d(np.arange(len(table)), [one.row for one in outlying])
    if options.outliers != "none":
        diagnostics["all_rows"] = {"values": dict(found.values), "rows": found.rows}
    if outlying:
        found = method.fit(table.take(rows), options)
    dropped = [replace(one, row=int(rows[one.row])) for one in found.dropped]  # numbers of the table that was given
    found = replace(
        found,
        options=asdict(options),
        dropped=(*left_out, *outlying, *dropped),
        diagnostics={**found.diagnostics, **diagnostics},
        digest=table.digest(),
    )
    fitted = table.take(np.setdiff1d(rows, [one.row for one in dropped]))
    values, failures = bootstrap.samples(found, fitted, options, method)
    found = replace(found, covariance=delta.covariance(found, fitted), samples=values, failures=failures)
    return replace(found, diagnostics={**found.diagnostics, "cautions": cautions(found)})
