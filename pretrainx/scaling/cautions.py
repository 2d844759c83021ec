"""What a reader of a fit must know before believing it: short, narrow or ill-conditioned tables, and values that float."""

from __future__ import annotations

import numpy as np

from pretrainx.scaling.fits import Fit

ROWS_PER_VALUE = 3
POINTS = 5  # of a frontier
SPAN = 10.0  # largest over least C
FAILED = 0.05  # of the replicates
WIDE = 0.25  # of a value: a wider 90% interval does not determine it


def cautions(fit: Fit) -> list[str]:
    """Sentences; none where nothing is to be said."""
    said = []
    if fit.form == "frontier":
        if (points := fit.diagnostics["points"]) < POINTS:
            said.append(f"{points} points for the three values of L*(C): compare predictions near the data, not E or g")
    else:
        moving = len(fit.values) - len(fit.options.get("fixed", ())) - bool(fit.options.get("equal"))
        if fit.rows < ROWS_PER_VALUE * moving:
            said.append(f"{fit.rows} rows for {moving} values: compare predictions near the data, not the values")
    least, most = fit.range[2]
    if most < SPAN * least:
        said.append(f"C spans a factor of {most / least:.1f} only: exponents say little beyond it")
    tried = len(fit.samples) + fit.failures
    if tried and fit.failures > FAILED * tried:
        said.append(
            f"{fit.failures} of {tried} replicates could not be fitted: intervals are of the rest, and too narrow"
        )
    if len(fit.samples) > 1:
        said += _floating(fit)
    return said


def _floating(fit: Fit) -> list[str]:
    """Values, exponents and E among them, whose replicates spread by more than WIDE of themselves; scales always do."""
    low, high = np.percentile(fit.samples, [5, 95], axis=0)
    names = list(fit.values)
    asked = [name for name in ("E", "alpha", "beta", "aN", "aD", "eta", "a", "b", "g") if name in names]
    asked = [name for name in asked if not (fit.form == "shared" and name in ("a", "b"))]  # its a and b are scales
    wide = [name for name in asked if (high - low)[names.index(name)] > WIDE * abs(fit.values[name])]
    if not wide:
        return []
    return [
        f"the table does not determine {', '.join(wide)}: 90% of the replicates spread by more than {WIDE:.0%} of it"
    ]
