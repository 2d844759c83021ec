"""What a check over widths found, as DIR/NAME.json and one page, DIR/NAME.html, that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx import __version__
from pretrainx.core.whole_file import write_whole
from pretrainx.report.charts import Axis, Series, chart
from pretrainx.report.document import document, section
from pretrainx.scaling.coordinates import Coordinates
from pretrainx.scaling.lr_transfer import Transfer, shown
from pretrainx.scaling.manifest import identity

Found = Coordinates | Transfer
TITLES = {"coordcheck": "Coordinate check", "lr_transfer": "Learning-rate transfer"}


def write(directory: Path, name: str, found: Mapping[str, Found], values: dict[str, Any]) -> Path:
    """The page's path. `found`: {parametrisation: what was measured}; values: of the config."""
    record = {"version": __version__, "config": values, "found": {title: plain(each) for title, each in found.items()}}
    write_whole(directory / f"{name}.json", json.dumps(record, indent=1))
    sections = []
    for title, each in found.items():
        charts = coordinate_charts(title, each) if isinstance(each, Coordinates) else transfer_charts(title, each)
        figures = "".join(f"<figure>{svg}</figure>" for svg in charts)
        table = escape("\n".join(each.lines()))
        body = f'<p>{escape(each.verdict())}</p><div class="curves">{figures}</div><pre>{table}</pre>'
        sections.append(section(title, body))
    settings = escape(json.dumps(values, indent=1, default=str))
    sections.append(f"<details><summary>Config</summary><pre>{settings}</pre></details>")
    footer = f"pretrainx {__version__}, config {identity(values)}"
    page = document(TITLES[name], "pretrainx scaling", sections, footer)
    return write_whole(directory / f"{name}.html", page)


def plain(found: Found) -> dict[str, Any]:
    """What JSON takes; what diverged is null there."""
    shared = {"passes": found.passes, "verdict": found.verdict(), "widths": found.widths}
    finite = lambda array: np.where(np.isfinite(array), array, None).tolist()
    if isinstance(found, Coordinates):
        return shared | {
            "tensors": found.tensors,
            "sizes": finite(found.sizes),
            "slopes": finite(found.slopes),
            "largest": found.largest if np.isfinite(found.largest) else None,
        }
    best = [found.rates[place] for place in found.best]
    return shared | {
        "rates": found.rates,
        "reached": finite(found.reached),
        "best": best,
        "edges": found.edges,
        "ties": [found.ties(number) for number in range(len(found.widths))],
        "wider_is_better": found.wider_is_better(),
        "curves": finite(found.curves),
    }


def logarithmic(label: str, values: Sequence[float]) -> Axis:
    """Ticks at powers of two where there are at least two of them, rates written as powers."""
    powers = values[-1] >= 4 * values[0]
    return Axis(label, "log2" if powers else "log", "power" if powers and values[0] < 1 else "")


def coordinate_charts(title: str, found: Coordinates) -> list[str]:
    """A chart for each step: mean |x| over width, a line per tensor, its slope in the legend."""
    charts = []
    for step, slopes in enumerate(found.slopes):
        series = [
            Series(found.widths, found.sizes[:, step, index], f"{tensor} ({slopes[index]:+.2f})", index, marker="o")
            for index, tensor in enumerate(found.tensors)
            if np.isfinite(found.sizes[:, step, index]).all() and (found.sizes[:, step, index] > 0).all()
        ]
        when = "before the first update" if step == 0 else f"after {step} updates" if step > 1 else "after 1 update"
        axes = logarithmic("width", found.widths), Axis("mean |x|", "log")
        charts.append(chart(f"Step {step + 1}, {when}", *axes, series, key=f"{title} {step}"))
    return charts


def transfer_charts(title: str, found: Transfer) -> list[str]:
    """Loss over the rate with each width's minimum marked, hollow at an edge; and over the steps at the narrowest's best."""
    series, reached = [], np.where(np.isfinite(found.reached), found.reached, np.nan)
    for number, width in enumerate(found.widths):
        place = found.best[number]
        series.append(
            Series(found.rates, reached[number], f"width {width}, best {shown(found.rates[place])}", number, marker=".")
        )
        at = [found.rates[place]], [reached[number, place]]
        series.append(Series(*at, colour=number, style="none", marker="o", size=7, hollow=width in found.edges))
    low = float(np.nanmin(reached))
    above = float(np.nanmin(np.nanmax(reached, 1)))
    limits = (low - 0.05 * (above - low), above + 0.25 * (above - low)) if above > low else None
    rate = logarithmic("learning rate", found.rates)
    of_rates = chart("Loss after the run", rate, Axis("loss", limits=limits), series, key=f"{title} rates")
    steps, at = np.arange(found.curves.shape[-1]), found.curves[:, found.best[0]]
    curves = [
        Series(steps, np.where(np.isfinite(at[n]), at[n], np.nan), f"width {w}", n) for n, w in enumerate(found.widths)
    ]
    said = f"Loss at rate {shown(found.rates[found.best[0]])}"
    return [of_rates, chart(said, Axis("step"), Axis("loss"), curves, key=f"{title} steps")]
