"""The charts of a study: isoFLOP curves, the frontier, L*(C), residuals, L(N, D), predicted against measured, replicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import quantity
from pretrainx.report.charts import GREY, Axis, Grid, Guide, Series, bars, chart
from pretrainx.scaling import isoflop, predictions
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fits import OF_FILE, Fit
from pretrainx.scaling.holdout import HeldOut, best_of
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.minimum import drawn
from pretrainx.scaling.outliers import RULE, residuals
from pretrainx.scaling.presets import PRESETS
from pretrainx.scaling.ratio import RATIO, at_ratio
from pretrainx.scaling.table import Table

LINES = ("hoffmann", "besiroglu", "kaplan")  # presets that are drawn; others count other things
FINE = 41  # points of a curve
FEW = 17  # budgets of a law: each is solved anew in each replicate
BROAD = (10.6, 4.6)  # inches, of a chart that has a row of the page to itself
INK, RED = "#2b2f36", "#a33b3b"
LAWS = ("N", "D", "L", "D/N")
FLOPS = Axis("C (training FLOPs)", "log", "power")


@dataclass(frozen=True)
class Scene:
    """What a study's charts are of.

    Attributes:
      fit: of `table`, all rows that were read, those left out by the fit among them.
      target: FLOPs to which laws are drawn. held: budgets that were predicted from those below them.
      unique: how many different tokens there are, as in predictions.optimum.
    """

    fit: Fit
    table: Table
    target: float
    held: Sequence[HeldOut] = ()
    unique: float | None = None

    @property
    def outlying(self) -> np.ndarray:
        """int[K]: rows of the table that a rule left out; not those of runs that never got into it."""
        return np.array([one.row for one in self.fit.dropped if one.rule not in OF_FILE], int)

    @property
    def kept(self) -> Table:
        """The rows without outliers: isoFLOP minima are of these."""
        outliers = [one.row for one in self.fit.dropped if one.rule == RULE]
        return self.table.take(np.setdiff1d(np.arange(len(self.table)), outliers))

    @property
    def minima(self) -> list[isoflop.Minimum]:
        """Of each budget of `kept`, by the fit's own window and kind where it is an isoFLOP fit; [] for an envelope, whose rows
        are the evaluations of each run on its way."""
        if self.fit.method == "envelope":
            return []
        chosen = self.fit.options if self.fit.method == "isoflop" else {}
        names = ("window", "minimum", "scale")
        options = FitOptions(method="isoflop", **{name: chosen[name] for name in names if name in chosen})
        return isoflop.minima(self.kept, options)

    @property
    def points(self) -> np.ndarray:
        """float64[M, 3]: C, N and D of what the frontier goes through: isoFLOP minima, or the envelope's rows."""
        used = [(one.flops, one.parameters, one.tokens) for one in self.minima if not one.reason]
        used += [(one["flops"], one["parameters"], one["tokens"]) for one in self.fit.diagnostics.get("envelope", ())]
        return np.array(used).reshape(-1, 3)

    @property
    def best(self) -> list[tuple[float, float]]:
        """(C, loss) of what L*(C) is held against: the best of each budget of enough sizes to have one, or the envelope."""
        rows = [one.rows for one in self.minima]
        rows = [some for some in rows if len(np.unique(self.kept.parameters[some])) >= isoflop.LEAST]
        found = [(one.budget, one.loss) for one in (best_of(self.kept.take(some)) for some in rows)]
        return found + [(one["flops"], one["loss"]) for one in self.fit.diagnostics.get("envelope", ())]

    @property
    def of_points(self) -> str:
        return "on the envelope" if self.fit.method == "envelope" else "isoFLOP minima"

    @property
    def budgets(self) -> np.ndarray:
        """float64[FEW]: from the least budget of the rows to the target."""
        return np.geomspace(self.table.flops.min(), max(self.target, self.table.flops.max()), FEW)

    @cached_property
    def laws(self) -> dict[str, tuple]:
        """{"N", "D", "L" or "D/N": (estimate, low, high)}: float64[FEW] each, along the budgets; no bounds: None."""
        fit, count = self.fit, len(self.budgets)

        def along(values) -> np.ndarray:
            logs = predictions.along(fit, values, self.budgets, self.unique)
            return np.concatenate([logs, logs[..., count : 2 * count] - logs[..., :count]], -1)

        found = along(fit.samples) if len(fit.samples) >= predictions.FEWEST else None
        estimate, bounds = np.exp(along(fit.values)), predictions.intervals(fit, along, found=found)
        low, high = (None, None) if bounds is None else map(np.exp, bounds)
        part = lambda array, i: None if array is None else array[i * count : (i + 1) * count]
        return {name: tuple(part(array, i) for array in (estimate, low, high)) for i, name in enumerate(LAWS)}

    @property
    def of_size(self) -> Axis:
        return Axis(f"N (parameters, {self.fit.counted})", "log", "quantity")

    @property
    def of_data(self) -> Axis:
        return Axis(f"D ({self.fit.unit}s)", "log", "quantity")


def groups(scene: Scene) -> dict[str, list[str]]:
    """{heading: SVG texts} of all charts that the fit allows."""
    law = scene.fit.form != "frontier"
    found = {
        "Loss over size, at each budget": [curves(scene)] if any(len(m.within.y) > 2 for m in scene.minima) else [],
        "Loss of each size on its way": [ways(scene)] if scene.fit.method == "envelope" else [],
        "Frontier": [frontier(scene, "N"), frontier(scene, "D"), envelope(scene), ratio(scene)],
        "Predicted and measured": [parity(scene)] + ([plane(scene)] if law else []),
        "Residuals of log loss": remainders(scene),
        "Replicates": replicates(scene),
    }
    return {heading: charts for heading, charts in found.items() if charts}


def curves(scene: Scene) -> str:
    """Every row, and each budget's parabola over the window that it was fitted in, with its minimum."""
    table, series = scene.kept, []
    akima = scene.fit.options.get("minimum", "parabola") if scene.fit.method == "isoflop" else "parabola"
    log_loss = scene.fit.method == "isoflop" and scene.fit.options.get("scale") == "log_loss"
    for colour, one in enumerate(scene.minima):
        used, near = not one.reason, one.within
        rows = np.asarray(one.rows)
        name = f"{one.flops:.3g}" + ("" if used else " (no minimum, unused)")
        series.append(
            Series(table.parameters[rows], table.loss[rows], name, colour, "none", "o", hollow=not used, size=3.5)
        )
        if len(near.log_n) < isoflop.LEAST:
            continue
        at = np.linspace(near.log_n[0], near.log_n[-1], FINE)
        loss = drawn(akima, near.log_n, near.y, near.counts, at)
        loss = np.exp(loss) if log_loss else loss
        series.append(Series(np.exp(at), loss, colour=colour, style="line" if used else "dotted"))
        if used:
            series.append(Series([one.parameters], [one.loss], "minimum", INK, "none", "*", size=8))
    series += _marked(scene, scene.table.parameters, scene.table.loss)
    note = "lines: the window of each fit; C in the legend"
    return chart("isoFLOP curves", scene.of_size, Axis("loss"), series, key="isoflop", note=note, size=BROAD)


def ways(scene: Scene) -> str:
    """Every evaluation over the FLOPs spent until it, a line for each run, and those that lie on the envelope."""
    table, series = scene.table, []
    sizes = np.unique(table.parameters).tolist()
    for run in dict.fromkeys(table.runs[row] for row in np.argsort(table.parameters, kind="stable")):
        rows = np.flatnonzero([one == run for one in table.runs])
        rows = rows[np.argsort(table.flops[rows])]
        size = table.parameters[rows[0]]
        name = f"N {quantity(size)}"
        series.append(Series(table.flops[rows], table.loss[rows], name, sizes.index(size), marker="o", size=2.5))
    series.append(Series(*np.array(scene.best).T, scene.of_points, INK, "none", "*", size=8))
    return chart("Training curves", FLOPS, Axis("loss", "log"), series, key="ways", size=BROAD)


def frontier(scene: Scene, which: str) -> str:
    """N*(C) or D*(C): the fit with its interval, its points, presets and the 20:1 rule."""
    fit, budgets, place = scene.fit, scene.budgets, "ND".index(which)
    fitted, low, high = scene.laws[which]
    points = scene.points
    rule = np.array([at_ratio(budget, RATIO, fit.cost) for budget in budgets]) * (RATIO if place else 1)
    series = [
        Series(budgets, fitted, "fit", 0, low=low, high=high),
        Series(points[:, 0], points[:, 1 + place], scene.of_points, INK, "none", "*", size=8),
        Series(budgets, rule, f"{RATIO:g} {fit.unit}s per parameter", GREY, "dashed"),
    ]
    for colour, name in enumerate(LINES, 1):
        series.append(Series(budgets, PRESETS[name].optimum(budgets, fit.cost)[place], name, colour, "dotted"))
    shown = np.concatenate([fitted, rule, points[:, 1 + place]])
    limits = (shown.min() / 3, shown.max() * 3)  # presets are of far larger budgets and may lie anywhere
    axis = scene.of_data if place else scene.of_size
    axis = Axis(axis.label.replace("N (", "N* (").replace("D (", "D* ("), "log", "quantity", limits)
    return chart(f"{which}*(C)", FLOPS, axis, series, _target(scene), key=f"frontier-{which}")


def envelope(scene: Scene) -> str:
    """L*(C) with its interval, each budget's best loss, and what was predicted of those that were held out."""
    fitted, low, high = scene.laws["L"]
    held = {one.budget for one in scene.held}
    free = np.array([one for one in scene.best if one[0] not in held]).reshape(-1, 2)
    named = scene.of_points if scene.fit.method == "envelope" else "best of a budget"
    series = [
        Series(scene.budgets, fitted, "fit", 0, low=low, high=high),
        Series(free[:, 0], free[:, 1], named, INK, "none", "*", size=8),
    ]
    for one in scene.held:
        series.append(Series([one.budget], [one.actual], "held out: measured", RED, "none", "*", size=8))
        series.append(Series([one.budget], [one.predicted], "held out: predicted", RED, "none", "_", size=9))
        if np.isfinite(one.low):
            series.append(Series([one.budget] * 2, [one.low, one.high], colour=RED))
    return chart("L*(C)", FLOPS, Axis("loss", "log"), series, _target(scene), key="envelope")


def ratio(scene: Scene) -> str:
    """D*/N*(C): whether a constant ratio holds."""
    fitted, low, high = scene.laws["D/N"]
    series = [Series(scene.budgets, fitted, "fit", 0, low=low, high=high)]
    guides = [*_target(scene), Guide(y=RATIO, note=f"{RATIO:g}")]
    return chart("D*/N*(C)", FLOPS, Axis(f"{scene.fit.unit}s per parameter", "log"), series, guides, key="ratio")


def remainders(scene: Scene) -> list[str]:
    """ln(measured) - ln(fitted) over ln N, ln D, ln C and ln D/N; [] for fits that say nothing of single rows."""
    table = scene.table
    try:
        left = residuals(table, replace(scene.fit, dropped=()))  # of all rows, those left out among them
    except ConfigError:  # an envelope or L*(C) alone
        return []
    axes = (
        (scene.of_size, table.parameters),
        (scene.of_data, table.tokens),
        (FLOPS, table.flops),
        (Axis("D / N", "log", "quantity"), table.tokens / table.parameters),
    )
    found = []
    for number, (axis, x) in enumerate(axes):
        series = [Series(x, left, "rows", 0, "none", "o", size=3.5), *_marked(scene, x, left)]
        title = f"over {axis.label.split(' (')[0]}"
        found.append(chart(title, axis, Axis("residual"), series, (Guide(y=0.0),), key=f"residual-{number}"))
    return found


def plane(scene: Scene) -> str:
    """L(N, D) with the compute-optimal line and the runs."""
    fit, table = scene.fit, scene.table
    size, tokens, _ = predictions.optimum(fit, scene.budgets, scene.unique)
    reach = lambda column, line: (min(column.min(), line.min()) / 1.3, 1.3 * max(column.max(), line.max()))
    x, y = (
        np.geomspace(*reach(column, line), FINE) for column, line in ((table.parameters, size), (table.tokens, tokens))
    )
    sizes, data = np.meshgrid(x, y)
    values = FORMS[fit.form].loss(fit.values, sizes, data, scene.unique or data)
    inside = [
        Series(size, tokens, "N*, D*", INK),
        Series(table.parameters, table.tokens, "runs", RED, "none", "o", size=3),
    ]
    inside += _marked(scene, table.parameters, table.tokens)
    return chart("L(N, D)", scene.of_size, scene.of_data, inside, grid=Grid(x, y, values, 14, "loss"), key="plane")


def parity(scene: Scene) -> str:
    """Predicted against measured: rows of a law of N and D, minima of a frontier; the last held-out budget's by a fit without
    it."""
    fit, table = scene.fit, scene.table
    held = scene.held[-1] if scene.held else None
    if fit.form == "frontier":
        flops, actual = np.array(scene.best).T
        said = predictions.optimum(fit, flops)[2]
        unseen = None if held is None else ([held.actual], [held.predicted])
    else:
        law = lambda which, rows: FORMS[which.form].loss(which.values, rows.parameters, rows.tokens, rows.unique)
        actual, said = table.loss, law(fit, table)
        rows = None if held is None else table.take([run in held.runs for run in table.runs])
        unseen = None if rows is None else (rows.loss, law(held.fit, rows))
    ends = [min(actual.min(), said.min()), max(actual.max(), said.max())]
    series = [Series(ends, ends, "equal", GREY, "dashed"), Series(actual, said, "fitted", 0, "none", "o", size=3.5)]
    if unseen is not None:
        name = f"C = {held.budget:.3g}, from budgets below it"
        series.append(Series(*unseen, name, RED, "none", "o", size=3.5))
    if fit.form != "frontier":
        series += _marked(scene, actual, said)
    more = {"size": BROAD} if fit.form == "frontier" else {}  # no L(N, D) stands beside it
    return chart(
        "Predicted against measured", Axis("measured loss"), Axis("predicted loss"), series, key="parity", **more
    )


def replicates(scene: Scene) -> list[str]:
    """Histograms of a and of N* at the target; [] where there are too few replicates."""
    fit, target = scene.fit, scene.target
    if len(fit.samples) < predictions.FEWEST:
        return []
    sizes = np.exp(predictions.along(fit, fit.samples, [target], scene.unique)[:, 0])
    best = float(predictions.optimum(fit, target, scene.unique)[0])
    middle = predictions.exponents(fit, target, scene.unique)
    pair = target * np.exp(np.array([-0.5, 0.5]) * predictions.DECADE)
    pair = np.log(predictions.optimum(fit, pair, scene.unique)[0])
    at = f"at {target:.3g} FLOPs"
    found = []
    for title, axis, values, said in (
        (f"a = d ln N* / d ln C {at}", Axis("a"), middle, (pair[1] - pair[0]) / predictions.DECADE),
        (f"N* {at}", Axis("N*", "log", "quantity"), sizes, best),
    ):
        low, high = np.nanquantile(values, (0.05, 0.95))
        guides = (Guide(x=said, note="fit", colour=INK), Guide(x=low, note="5%"), Guide(x=high, note="95%"))
        found.append(bars(title, axis, values[np.isfinite(values)], guides))
    return found


def _marked(scene: Scene, x, y) -> list[Series]:
    """Rows that the fit left out, crossed."""
    rows = scene.outlying
    return [Series(np.asarray(x)[rows], np.asarray(y)[rows], "left out", RED, "none", "x", size=7)] if len(rows) else []


def _target(scene: Scene) -> list[Guide]:
    most = scene.fit.range[2][1]
    return [Guide(x=most, note="fitted up to here")] if scene.target > 1.01 * most else []
