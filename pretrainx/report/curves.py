"""Curves of runs as SVG text that goes into a page as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pretrainx.core.readable import quantity
from pretrainx.report.figure import COLOURS, MUTED, STYLE, svg
from pretrainx.report.read import Run

_POINTS = 1200  # of a line: more than pixels across are bytes that nobody sees
_LEAST_TO_SMOOTH = 60


@dataclass(frozen=True)
class Curve:
    """One figure: what is drawn of each run.

    Attributes:
      key: the metric; one that ends in "*" stands for all that begin so, each in a figure of its own.
      smooth: draw it faintly, with its running mean on top. points: draw markers too.
      also: metrics drawn as points over the first. level: a metric whose last value is a dashed horizontal line.
      logarithmic: a logarithmic axis where the values span more than a factor of 50.
    """

    title: str
    key: str
    smooth: bool = False
    points: bool = False
    also: tuple[tuple[str, str], ...] = ()
    level: tuple[str, str] | None = None
    logarithmic: bool = False
    scale: float = 1.0


CURVES = (
    Curve(
        "Loss",
        "train/loss",
        smooth=True,
        also=(("eval/held_out/loss", "held out"),),
        level=("eval/trigram/loss", "trigram model"),
    ),
    Curve("Bits per byte, held out", "eval/held_out/bits_per_byte", points=True),
    Curve("Accuracy, held out (%)", "eval/held_out/metric/accuracy", points=True, scale=100.0),
    Curve("Nearest neighbours (%)", "eval/knn/*", points=True, scale=100.0),
    Curve("Linear probe (%)", "eval/probe/*", points=True, scale=100.0),
    Curve("Spread of embeddings", "train/metric/embedding_std", smooth=True),
    Curve("Rank of embeddings", "train/metric/embedding_rank", smooth=True),
    Curve("Gradient norm", "train/grad_norm", smooth=True, logarithmic=True),
    Curve("Learning rate", "train/lr"),
    Curve("Tokens per second", "perf/tokens_per_s", smooth=True),
    Curve("Examples per second", "perf/examples_per_s", smooth=True),
    Curve("Model FLOPs utilisation (%)", "perf/mfu", smooth=True, scale=100.0),
)


def draw(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(title, SVG text) of every curve that at least one run has values for; runs are overlaid in COLOURS' order."""
    with matplotlib.rc_context(STYLE):
        return [
            (curve.title, _svg(curve, runs))
            for curve in _spelled_out(CURVES, runs)
            if any(run.series(key)[0] for run in runs for key in (curve.key, *(key for key, _ in curve.also)))
        ]


def _spelled_out(curves: Sequence[Curve], runs: Sequence[Run]) -> list[Curve]:
    """A curve for each metric that a key with "*" stands for; halves of intervals are none."""
    metrics = dict.fromkeys(name for run in runs for record in run.metrics for name in record)
    found = []
    for curve in curves:
        start = curve.key.removesuffix("*")
        names = [name for name in metrics if name.startswith(start) and not name.endswith("/interval")]
        titled = lambda name, curve=curve, start=start: f"{curve.title}: {name.removeprefix(start)}"
        if start == curve.key:
            found.append(curve)
        else:
            found += [dataclasses.replace(curve, title=titled(name), key=name) for name in names]
    return found


def running_mean(values: np.ndarray) -> np.ndarray:
    """The mean over a centred window of about a fortieth of the points, at least 5.

    At the start the window narrows on both sides (a loss falls fast there, and must not be drawn too low); at the
    end it loses only what is not there yet, so that the last value is a mean too.
    """
    half = max(2, len(values) // 80)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(half, index)
    after = np.minimum(before, len(values) - 1 - index)
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def _svg(curve: Curve, runs: Sequence[Run]) -> str:
    figure = Figure(figsize=(5.2, 3.1), layout="constrained")
    axes = figure.add_subplot()
    shown: list[np.ndarray] = []
    for index, run in enumerate(runs):
        shown += _draw_run(axes, curve, run, COLOURS[index % len(COLOURS)], alone=len(runs) == 1)
    levels = [run.last(curve.level[0]) for run in runs] if curve.level else []
    _frame(axes, curve, np.concatenate(shown), max(filter(None, levels), default=-np.inf))
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))  # "held out" once, whatever the number of runs
    names = sorted(entries, key=[run.name for run in runs].__contains__, reverse=True)
    if len(names) > 1 or len(runs) > 1:
        axes.legend([entries[name] for name in names], names, loc="best")
    return svg(figure, curve.key, curve.title)


def _draw_run(axes, curve: Curve, run: Run, colour: str, alone: bool) -> list[np.ndarray]:
    """Adds one run; returns the values that the axis should show."""
    shown = []
    steps, values = (np.asarray(series) for series in run.series(curve.key))
    values = values * curve.scale
    if len(steps):
        name = ("train" if curve.also else curve.title) if alone else run.name
        smooth = curve.smooth and len(values) >= _LEAST_TO_SMOOTH
        line = running_mean(values) if smooth else values
        if smooth:
            axes.plot(*_thinned(steps, values), color=colour, alpha=0.28, linewidth=0.8)
        markers = {"marker": "o", "markersize": 3.5} if curve.points or len(steps) == 1 else {}
        axes.plot(*_thinned(steps, line), color=colour, linewidth=1.5, label=name, **markers)
        shown += [line, values]
    for key, label in curve.also:
        steps, values = (np.asarray(series) for series in run.series(key))
        if len(steps):
            tint = COLOURS[1] if alone else colour
            marks = {"marker": "o", "markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.6}
            axes.plot(steps, values, color=tint, linewidth=0, label=label, zorder=3, **marks)
            shown.append(values)
    height = run.last(curve.level[0]) if curve.level else None
    if height is not None:
        dashes = (0, (5, 3))
        axes.axhline(height, color=MUTED if alone else colour, linewidth=1, linestyle=dashes, label=curve.level[1])
        shown.append(np.asarray([height]))
    return shown


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about _POINTS points. Of each stretch the least and the greatest value stay, so that spikes are seen."""
    if len(steps) <= _POINTS:
        return steps, values
    stretches = np.array_split(np.arange(len(steps)), _POINTS // 2)
    ends = [(part[np.argmin(values[part])], part[np.argmax(values[part])]) for part in stretches]
    chosen = np.unique(np.concatenate([*ends, (0, len(steps) - 1)]))
    return steps[chosen], values[chosen]


def _frame(axes, curve: Curve, values: np.ndarray, level: float) -> None:
    """Title, grid and limits; `level` is a height that stays in view."""
    axes.set_title(curve.title.replace(": ", "\n"), weight="bold")  # how a metric was made is long
    axes.set_xlabel("step")
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    if curve.logarithmic and values.min() > 0 and values.max() > 50 * values.min():
        axes.set_yscale("log")
        return
    if values.max() >= 10_000:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    else:
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    low, usual, high = np.quantile(values, (0.0, 0.9, 1.0))
    top = max(low + 2 * (usual - low), level + 0.1 * (level - low) if level > low else low)
    if curve.smooth and high - low > 2 * (top - low) > 0:  # the start, or one spike, would flatten all the rest
        axes.set_ylim(low - 0.05 * (top - low), top)
        text = f"goes up to {quantity(float(high))}"
        axes.annotate(text, (1, 1.03), xycoords="axes fraction", ha="right", color=MUTED, fontsize=8)
