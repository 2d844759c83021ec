"""Charts of numbers as SVG text: points, lines and bands over linear or logarithmic axes, maps of a value, bars of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pretrainx.core.readable import quantity
from pretrainx.report.figure import COLOURS, MUTED, STYLE, svg

SIZE = (5.2, 3.3)  # inches; two stand side by side on a page
MOST_TICKS = 7
STEPS = ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))  # of a decade: the finest that gives few enough ticks
GREY = "#9aa1ab"


@dataclass(frozen=True)
class Axis:
    """Attributes:
    scale: "linear", "log" or "log2". words: how a tick is written: "" as it is, "quantity" (1.2M), "power" (3e15, 2^-7).
    limits: (low, high); what lies outside is not seen. None: all is.
    """

    label: str
    scale: str = "linear"
    words: str = ""
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """One set of points x, y: float64[n].

    Attributes:
      colour: number in figure.COLOURS, or a colour of matplotlib. name: in the legend; "" keeps it out.
      style: "line", "dashed", "dotted" or "none". marker: of matplotlib, "" for none; hollow: its middle is white.
      low, high: float64[n] of a band around it, drawn faintly.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    name: str = ""
    colour: int | str = 0
    style: str = "line"
    marker: str = ""
    hollow: bool = False
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None
    size: float = 4.0


@dataclass(frozen=True)
class Guide:
    """A straight line across the chart: at an x or at a y; a note is written at its end."""

    x: float | None = None
    y: float | None = None
    note: str = ""
    colour: int | str = MUTED


@dataclass(frozen=True)
class Grid:
    """A value over a plane, by colour: values: float64[Y, X] at x: float64[X], y: float64[Y].

    Attributes:
      levels: draws that many filled contours, 0 a cell for each value (x and y are then names or numbers of rows and columns).
      words: written in each cell, [Y][X].
    """

    x: Sequence
    y: Sequence
    values: np.ndarray
    levels: int = 0
    label: str = ""
    words: Sequence[Sequence[str]] = ()


_LINES = {"line": "-", "dashed": (0, (5, 3)), "dotted": (0, (1, 2)), "none": ""}


def chart(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series] = (),
    guides: Sequence[Guide] = (),
    grid: Grid | None = None,
    key: str = "",
    note: str = "",
    size: tuple[float, float] = SIZE,
) -> str:
    """SVG text of one chart; `key` tells it from others of the page (default: the title)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for axis, side in ((x, axes.xaxis), (y, axes.yaxis)):
            if axis.scale != "linear":
                getattr(axes, f"set_{side.axis_name}scale")("log", base=2 if axis.scale == "log2" else 10)
        if grid is not None:
            _plane(figure, axes, grid)
        for one in series:
            _draw(axes, one)
        for one in guides:
            _guide(axes, one)
        axes.set_title(title, weight="bold")
        axes.grid(grid is None, axis="both")
        axes.set_axisbelow(True)
        for axis, side in ((x, axes.xaxis), (y, axes.yaxis)):
            _ticks(axes, axis, side, cells=grid is not None and not grid.levels)
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True))  # a name once, whatever the number of its series
        if len(entries) > 1 or entries and len(series) > 1:
            axes.legend(entries.values(), entries, loc="best", fontsize=8 if len(entries) < 9 else 6.5)
        if note:
            axes.annotate(note, (1, 1.03), xycoords="axes fraction", ha="right", color=MUTED, fontsize=8)
        return svg(figure, key or title, title)


def bars(
    title: str, x: Axis, values: Sequence[float], guides: Sequence[Guide] = (), count: int = 30, key: str = ""
) -> str:
    """SVG text of a histogram of values: float64[n]; on a logarithmic axis bins are of one width in the logarithm."""
    values = np.asarray(values, np.float64)
    low, high = np.quantile(values, (0.005, 0.995))
    low, high = (low, high) if high > low else (low - 0.5 * abs(low) - 1e-12, low + 0.5 * abs(low) + 1e-12)
    edges = np.geomspace(low, high, count + 1) if x.scale != "linear" else np.linspace(low, high, count + 1)
    heights, _ = np.histogram(values, edges)
    outline = Series(
        np.repeat(edges, 2)[1:-1], np.repeat(heights, 2), low=np.zeros(2 * count), high=np.repeat(heights, 2)
    )
    return chart(title, x, Axis("replicates"), (outline,), guides, key=key)


def _colour(colour: int | str) -> str:
    return COLOURS[colour % len(COLOURS)] if isinstance(colour, int) else colour


def _draw(axes, one: Series) -> None:
    x, y, colour = np.asarray(one.x, np.float64), np.asarray(one.y, np.float64), _colour(one.colour)
    if one.low is not None and one.high is not None:
        axes.fill_between(x, one.low, one.high, color=colour, alpha=0.16, linewidth=0)
    middle = "white" if one.hollow else colour
    marks = {"marker": one.marker, "markersize": one.size, "markerfacecolor": middle, "markeredgewidth": 0.9}
    above = 3 if one.marker else 2
    axes.plot(
        x, y, color=colour, linestyle=_LINES[one.style], linewidth=1.3, label=one.name or None, zorder=above,
        **(marks if one.marker else {}),
    )  # fmt: skip


def _guide(axes, one: Guide) -> None:
    style = {"color": _colour(one.colour), "linewidth": 1, "linestyle": _LINES["dashed"], "zorder": 1}
    if one.x is not None:
        axes.axvline(one.x, **style)
        place, turn = (one.x, 0.98), {"xycoords": ("data", "axes fraction"), "va": "top", "ha": "right", "rotation": 90}
    else:
        axes.axhline(one.y, **style)
        place, turn = (0.99, one.y), {"xycoords": ("axes fraction", "data"), "va": "bottom", "ha": "right"}
    if one.note:
        axes.annotate(one.note, place, color=style["color"], fontsize=7.5, **turn)


def _plane(figure, axes, grid: Grid) -> None:
    if grid.levels:
        shown = axes.contourf(grid.x, grid.y, grid.values, levels=grid.levels, cmap="YlGnBu_r", alpha=0.75)
    else:
        shown = axes.imshow(grid.values, aspect="auto", cmap="YlGnBu_r", alpha=0.75)
        axes.set_xticks(range(len(grid.x)), [str(name) for name in grid.x])
        axes.set_yticks(range(len(grid.y)), [str(name) for name in grid.y])
        for row, words in enumerate(grid.words):
            for column, word in enumerate(words):
                axes.annotate(word, (column, row), ha="center", va="center", fontsize=7)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label(grid.label)
    bar.outline.set_linewidth(0)


def _ticks(axes, axis: Axis, side, cells: bool) -> None:
    name = side.axis_name
    getattr(axes, f"set_{name}label")(axis.label)
    if axis.limits is not None:
        getattr(axes, f"set_{name}lim")(axis.limits)
    if cells:
        return
    side.set_minor_locator(FixedLocator([]))
    low, high = sorted(getattr(axes, f"get_{name}lim")())
    if axis.scale == "log" and (ticks := _decades(low, high)):
        side.set_major_locator(FixedLocator(ticks))
    elif axis.scale == "log2":
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        side.set_major_locator(FixedLocator([2.0**k for k in range(first, last + 1, max(1, 1 + (last - first) // 10))]))
    else:
        side.set_major_locator(MaxNLocator(5))
    side.set_major_formatter(FuncFormatter(lambda value, _: _word(value, axis)))


def _decades(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis; none where it spans too little for round numbers."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in STEPS:
        ticks = [step * 10.0**k for k in range(first, last + 1) for step in steps if low <= step * 10.0**k <= high]
        if len(ticks) <= MOST_TICKS:
            return ticks if len(ticks) > 2 else []
    return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]


def _word(value: float, axis: Axis) -> str:
    if axis.scale == "log2" and axis.words == "power":
        return f"2^{round(math.log2(value))}"
    if axis.words == "power" and value > 0:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return quantity(value) if axis.words == "quantity" else f"{value:.4g}"
