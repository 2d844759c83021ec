"""A study as one HTML file without network: its charts, the fit, what was held out, and where every number came from."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pretrainx import __version__
from pretrainx.core.whole_file import write_whole
from pretrainx.report.document import document, section
from pretrainx.scaling import answers, fit_text, holdout, pictures, predictions
from pretrainx.scaling.holdout import HeldOut
from pretrainx.scaling.manifest import Manifest, identity
from pretrainx.scaling.pictures import Scene

NAME = "report.html"
NARROW = ".note.said { margin: 2px 0; } .curves figure.broad { grid-column: 1 / -1; }\n"
DEFINITIONS = (
    "Each line is predicted from the budgets below it alone. Errors are relative to the measured loss. "
    "Last point: the best loss of the budget before. "
    "20:1 rule: a straight line in log-log through the losses at 20 units per parameter of the budgets below. "
    "Of the gap: the error over how much the best loss fell from the budget before."
)


def write(
    output: str | Path,
    title: str,
    scene: Scene | None = None,
    manifest: Manifest | None = None,
    chosen: Mapping[str, Sequence[HeldOut]] | None = None,
    panel: str = "",
) -> Path:
    """The page's path. scene: of the fit. chosen: {what it was predicted by: budgets}. panel: HTML of a grid's outcome."""
    sections = [panel] if panel else []
    if scene is not None:
        sections += [
            section("Optima", _optima(scene)),
            *(section(heading, _charts(found)) for heading, found in pictures.groups(scene).items()),
            section("Held out", _held(chosen)) if chosen and any(chosen.values()) else "",
            section("Fit", f"<pre>{escape(chr(10).join(fit_text.lines(scene.fit)))}</pre>"),
            section("Left out", _dropped(scene)) if scene.fit.dropped else "",
            section("Options", _pairs(scene.fit.options)),
        ]
    sections.append(section("Where it comes from", _pairs(_origins(scene, manifest))))
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = f"Made {made} by pretrainx {__version__}. Intervals are {predictions.LEVEL:.0%}."
    return write_whole(output, document(title, "pretrainx scaling report", sections, footer, NARROW))


def _charts(found: Sequence[str]) -> str:
    figures = "\n".join(f"<figure{' class=broad' if len(found) == 1 else ''}>{svg}</figure>" for svg in found)
    return f'<div class="curves">{figures}</div>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "headline") -> str:
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    head = f"<thead><tr>{heading}</tr></thead>"
    return f'<div class="wide"><table class="{kind}">\n{head}\n<tbody>\n{body}\n</tbody></table></div>'


def _optima(scene: Scene) -> str:
    fit = scene.fit
    noise = predictions.scatter(fit, scene.table)
    rows = predictions.best(fit, [fit.range[2][1], scene.target], noise=noise, unique=scene.unique)
    said = "".join(
        f'<p class="note said">{escape(text)}</p>'
        for text in (*fit.diagnostics.get("cautions", ()), *predictions.extrapolated(fit, budget=scene.target))
    )
    if predictions.asks_unique(fit):
        said = f'<p class="note said">{escape(answers.supply(fit, scene.unique))}</p>' + said
    return _table(answers.OPTIMA, map(answers.optimum_row, rows), "events") + said


def _held(chosen: Mapping[str, Sequence[HeldOut]]) -> str:
    head = ("predicted by", *holdout.HEADER)
    rows = [(name, *holdout.row(one)) for name, found in chosen.items() for one in found]
    return _table(head, rows, "events") + f'<p class="note">{escape(DEFINITIONS)}</p>'


def _dropped(scene: Scene) -> str:
    rows = [(str(one.row), one.run, one.rule, one.reason) for one in scene.fit.dropped]
    return _table(("row", "run", "rule", "reason"), rows, "events")


def _pairs(values: Mapping[str, Any]) -> str:
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, default=str)) for name, value in values.items()
    ]
    return _table(("", ""), rows, "config")


def _origins(scene: Scene | None, manifest: Manifest | None) -> dict[str, Any]:
    """Hashes and conventions: of the data that were fitted, of the study, and of the configuration that its runs share."""
    found: dict[str, Any] = {}
    if scene is not None:
        fit = scene.fit
        found |= {
            "table": fit.source,
            "digest of the table that was read": scene.table.digest(),
            "digest of the table that was fitted": fit.digest,
            "N counts": fit.counted,
            "D counts": f"{fit.unit}s",
            "FLOPs counted as": fit.convention,
        }
    if manifest is not None:
        runs = {run.id: identity(run.config) for run in manifest.runs}
        found |= {
            "study": manifest.kind,
            "hash of the study": identity(manifest.study),
            "hash of the runs' configs": identity(runs),
            "hash of the config they share": identity(manifest.facts.get("base", {})),
            "hash of the data's section": identity(manifest.facts.get("base", {}).get("data", {})),
            "runs": f"{len(manifest.runs)}",
        }
    return found
