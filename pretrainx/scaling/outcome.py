"""What came out of a sweep of overrides: a table in order of the loss, its best marked, and a picture of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import json_lines
from pretrainx.core.readable import aligned
from pretrainx.scaling import manifest
from pretrainx.scaling.status import DONE

SEED = "seed"
MOST_LINES = 8  # of a chart: more are not told apart
LOGARITHMIC = 8.0  # values that span more than this factor have a logarithmic axis


@dataclass(frozen=True)
class Point:
    """One setting of the varied keys, all its seeds together.

    Attributes:
      values: of the keys, in their order. losses: of its runs that are done. states: of all its runs.
    """

    values: tuple[Any, ...]
    losses: tuple[float, ...]
    states: tuple[str, ...]

    @property
    def loss(self) -> float:
        """The mean over seeds; infinite where a run diverged, failed or is not done: no seed's luck makes it the best."""
        return statistics.fmean(self.losses) if len(self.losses) == len(self.states) else math.inf

    def words(self) -> str:
        """The loss with its spread over seeds, else what kept it from one."""
        if math.isinf(self.loss):
            return ", ".join(dict.fromkeys(state for state in self.states if state != DONE))
        spread = f" ±{statistics.stdev(self.losses):.4f}" if len(self.losses) > 1 else ""
        return f"{self.loss:.4f}{spread}"


@dataclass(frozen=True)
class Outcome:
    """Attributes:
    keys: that differ between runs, the seed left out. points: the best first. metric: what the loss is.
    """

    keys: tuple[str, ...]
    points: tuple[Point, ...]
    metric: str

    @property
    def best(self) -> Point | None:
        return self.points[0] if self.points and math.isfinite(self.points[0].loss) else None


def outcome(directory: Path) -> Outcome:
    """Of a study, from its manifest and DIR/results.jsonl."""
    study = manifest.read(directory)
    rows = {row["run"]: row for row in json_lines.read(Path(directory) / "results.jsonl")}
    changed = dict.fromkeys(key for run in study.runs for key in run.changes if key != SEED)
    keys = tuple(key for key in changed if len({repr(run.changes.get(key)) for run in study.runs}) > 1)
    together: dict[str, list[manifest.Run]] = {}
    for run in study.runs:
        together.setdefault(repr([run.changes.get(key) for key in keys]), []).append(run)
    points = []
    for runs in together.values():
        found = [rows.get(run.id, {}) for run in runs]
        losses = [
            row["loss"] for row in found if row.get("status") == DONE and isinstance(row.get("loss"), (int, float))
        ]
        states = tuple(row.get("status", "waiting") for row in found)
        points.append(Point(tuple(runs[0].changes.get(key) for key in keys), tuple(losses), states))
    metric = study.study.get("metric") or "held_out/loss"
    return Outcome(keys, tuple(sorted(points, key=lambda point: point.loss)), metric)


def lines(found: Outcome) -> list[str]:
    """The table as text; the best has a star."""
    cells = [("", *found.keys, found.metric)]
    cells += [("*" if point is found.best else "", *map(str, point.values), point.words()) for point in found.points]
    return [*aligned(cells), *edges(found)]


def edges(found: Outcome) -> list[str]:
    """A sentence for each key whose best value is the least or the greatest that was tried."""
    said = []
    for index, key in enumerate(found.keys):
        values = sorted({point.values[index] for point in found.points}) if is_numeric(found, index) else []
        if found.best and len(values) > 2 and found.best.values[index] in (values[0], values[-1]):
            which = "least" if found.best.values[index] == values[0] else "greatest"
            said.append(f"{key}: the best is the {which} that was tried, {found.best.values[index]}; try further ones")
    return said


def is_numeric(found: Outcome, index: int) -> bool:
    values = [point.values[index] for point in found.points]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def panel(directory: Path) -> str:
    """HTML of the outcome of a sweep; "" of a study of another kind, or where no run is done."""
    if manifest.read(directory).kind != "grid":
        return ""
    found = outcome(directory)
    if found.best is None:
        return ""
    head = "".join(f"<th>{escape(key)}</th>" for key in (*found.keys, found.metric))
    rows = []
    for point in found.points:
        cells = "".join(f"<td>{escape(str(value))}</td>" for value in (*point.values, point.words()))
        bold = ' style="font-weight: 600"' if point is found.best else ""
        rows.append(f"<tr{bold}>{cells}</tr>")
    notes = "".join(f'<p class="note">{escape(line)}</p>' for line in edges(found))
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    drawn = picture(found)
    figure = f'<div class="curves"><figure>{drawn}</figure></div>' if drawn else ""
    return f"<section>\n<h2>Outcome</h2>\n{notes}{figure}{table}\n</section>"


def picture(found: Outcome) -> str:
    """SVG text: a line over the one key, or over the longest with a line for each setting of the others; of two keys, and of
    names, a map. "" where there is too much for one picture."""
    numeric = [index for index in range(len(found.keys)) if is_numeric(found, index)]
    if len(found.keys) == 2 or (len(found.keys) == 1 and not numeric):
        return heat(found)
    if not numeric:
        return ""
    along = max(numeric, key=lambda index: len({point.values[index] for point in found.points}))
    return curves(found, along)


def curves(found: Outcome, along: int) -> str:
    """The loss over one key, a line for each setting of the others; a gap where a run is not done."""
    from pretrainx.report.charts import Axis, Guide, Series, chart

    others: dict[tuple, list[Point]] = {}
    for point in found.points:
        rest = tuple(value for index, value in enumerate(point.values) if index != along)
        others.setdefault(rest, []).append(point)
    names = [key.split(".")[-1] for index, key in enumerate(found.keys) if index != along]
    drawn = []
    for rest, points in list(others.items())[:MOST_LINES]:  # those with the best points first
        points = sorted(points, key=lambda point: point.values[along])
        name = ", ".join(f"{key} {value}" for key, value in zip(names, rest, strict=True))
        y = np.array([point.loss if math.isfinite(point.loss) else math.nan for point in points])
        drawn.append(Series([point.values[along] for point in points], y, name, len(drawn), marker="o"))
    values = [point.values[along] for point in found.points]
    scale = "log" if min(values) > 0 and max(values) > LOGARITHMIC * min(values) else "linear"
    best = found.best.values[along]
    more = f"the best {MOST_LINES} of {len(others)} settings" if len(others) > MOST_LINES else ""
    return chart(
        f"{found.metric} over {found.keys[along]}", Axis(found.keys[along], scale), Axis(found.metric), drawn,
        (Guide(x=best, note=f"best: {best}"),), note=more,
    )  # fmt: skip


def heat(found: Outcome) -> str:
    """The loss at each pair of values, written into its cell; rows are of the first key where there are two."""
    from pretrainx.report.charts import Axis, Grid, chart

    rows, columns = (found.keys[0], found.keys[1]) if len(found.keys) == 2 else ("", found.keys[0])
    cells = {((point.values[0], point.values[-1]) if rows else ("", point.values[0])): point for point in found.points}
    down, across = ordered(row for row, _ in cells), ordered(column for _, column in cells)
    values = np.full((len(down), len(across)), np.nan)
    words = [["" for _ in across] for _ in down]
    for (row, column), point in cells.items():
        place = down.index(row), across.index(column)
        values[place] = point.loss if math.isfinite(point.loss) else np.nan
        words[place[0]][place[1]] = point.words() + (" *" if point is found.best else "")
    return chart(
        f"{found.metric} over {' and '.join(found.keys)}", Axis(columns), Axis(rows),
        grid=Grid(across, down, values, label=found.metric, words=words),
    )  # fmt: skip


def ordered(values) -> Sequence[Any]:
    """Each once: numbers from the least on, anything else as it comes."""
    once = list(dict.fromkeys(values))
    return sorted(once) if all(isinstance(value, (int, float)) for value in once) else once
