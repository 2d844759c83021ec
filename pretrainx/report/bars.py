"""The panel of a run's time: one bar for each start or run, cut into parts, and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pretrainx.core.readable import duration
from pretrainx.report.goodput import DEFINITION, PARTS, attempts, between, goodput, total
from pretrainx.report.read import Run

COLOURS = {
    "device": "#2f5d8a",
    "host": "#7fa3c7",
    "data": "#d9a441",
    "log": "#b9b08a",
    "eval": "#3a7d44",
    "save": "#8e3b6f",
    "compile": "#c2571a",
    "start": "#e3a587",
    "profile": "#4b4ba3",
    "lost": "#a33b3b",
    "other": "#c9ccd2",
}
_STARTS_SHOWN = 12


def panel(runs: Sequence[Run]) -> str:
    """HTML; "" where no run has booked its time."""
    found = {run.name: attempts(run.lines, run.events) for run in runs}
    found = {name: starts for name, starts in found.items() if starts}
    if not found:
        return ""
    bars, notes = [], []
    for name, starts in found.items():
        alone = len(runs) == 1
        shown = starts[-_STARTS_SHOWN:] if alone and len(starts) > 1 else []
        if len(starts) > len(shown) > 0:
            notes.append(f"The last {len(shown)} of {len(starts)} starts have a bar.")
        for number, start in enumerate(shown, len(starts) - len(shown) + 1):
            bars.append(_bar(f"start {number}, steps {start.first:,} to {start.last:,}", start.seconds))
        share = goodput(starts)
        figure = "" if share is None else f", goodput {100 * share:.1f}%"
        bars.append(_bar(("the whole run" if alone else name) + figure, total(starts)))
        if len(starts) > 1:
            whose = "" if alone else f"{name}: "
            notes.append(f"{whose}{len(starts)} starts, with {duration(between(starts))} between them.")
    text = " ".join([DEFINITION, *notes])
    return "\n".join([*bars, _table(found), f'<p class="note">{escape(text)}</p>'])


def _bar(label: str, seconds: Mapping[str, float]) -> str:
    whole = max(sum(seconds.values()), 1e-9)
    pieces = [
        f'<i style="width:{100 * value / whole:.3f}%;background:{COLOURS[part]}" '
        f'title="{part}: {_seconds(value)}, {100 * value / whole:.1f}%"></i>'
        for part, value in seconds.items()
        if value > 0
    ]
    said = ", ".join(f"{part} {100 * value / whole:.1f}%" for part, value in seconds.items() if value > 0)
    return (
        f'<div class="time"><p>{escape(label)} <span class="note">{duration(whole)}</span></p>'
        f'<div class="bar" role="img" aria-label="{said}">{"".join(pieces)}</div></div>'
    )


def _table(found: Mapping[str, Sequence]) -> str:
    sums = [total(starts) for starts in found.values()]
    rows = []
    for part, meaning in PARTS.items():
        if not any(seconds[part] > 0 for seconds in sums):
            continue
        swatch = f'<span class="swatch" style="background:{COLOURS[part]}"></span>'
        cells = "".join(
            f"<td>{_seconds(seconds[part])}</td><td>{100 * seconds[part] / max(sum(seconds.values()), 1e-9):.1f}%</td>"
            for seconds in sums
        )
        rows.append(f'<tr><td>{swatch}{part}</td>{cells}<td class="key">{escape(meaning)}</td></tr>')
    names = "".join(f'<th colspan="2">{escape(name) if len(found) > 1 else "time"}</th>' for name in found)
    return (
        f'<div class="wide"><table class="times"><thead><tr><th></th>{names}<th></th></tr></thead>\n'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _seconds(value: float) -> str:
    return f"{value:.2f}s" if value < 10 else duration(value)
