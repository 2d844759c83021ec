"""The report page: one HTML file that needs no network and no script, and reads the same on paper."""

from __future__ import annotations

import base64
import datetime
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pretrainx.core.config import difference, flatten
from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import duration, quantity
from pretrainx.core.whole_file import write_whole
from pretrainx.report.bars import panel
from pretrainx.report.curves import COLOURS, draw
from pretrainx.report.document import document, section
from pretrainx.report.goodput import attempts, goodput
from pretrainx.report.read import Run, Sample, read_runs

_SAMPLES_SHOWN = 12  # of one run alone
_SAMPLES_SHOWN_BESIDE = 4  # of each of several runs
_EVENTS_SHOWN = 60
_PAGE_WIDTH = 1036  # pixels of its text
_LARGEST_SCALE = 6  # of a picture's pixels
_STEPS_SHOWN = 6  # of those that were evaluated by command
_ROUTINE = ("saving", "saved", "eval", "seconds")  # told by their number and their last step, not one by one


def write(output: str | Path, workdirs: Sequence[str | Path]) -> Path:
    """Writes the page about one run, or about several side by side, and returns its path.

    The file appears whole or not at all, so a page that is open can be made again at any time.

    Raises:
      DataError: a workdir cannot be read.
      ConfigError: no workdir is given, or the page cannot be written there.
    """
    if not workdirs:
        raise ConfigError(
            "a report needs at least one run", where="pretrainx report", why="none is named", do="name a workdir"
        )
    output = Path(output)
    text = render(read_runs(workdirs))
    try:
        return write_whole(output, text)
    except OSError as error:
        raise ConfigError(
            "the report cannot be written", where=f"--output={output}", why=str(error), do="name another file"
        ) from error


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    most = _SAMPLES_SHOWN if len(runs) == 1 else _SAMPLES_SHOWN_BESIDE
    sections = [
        _headline(runs),
        section("Curves", _curves(runs)),
        section("Time", times) if (times := panel(runs)) else "",
        section("Config differences", _config_differences(runs)) if len(runs) > 1 else "",
        *(section(_of(run, "Evaluations", runs), _evaluations(run.evals)) for run in runs if run.evals),
        *(section(_of(run, "Pictures", runs), _pictures(run)) for run in runs if run.pictures or run.left_out),
        *(section(_of(run, "Samples", runs), _samples(run.samples, most)) for run in runs if run.samples),
        *(section(_of(run, "Events", runs), _events(run.events)) for run in runs if run.events),
        *(section(_of(run, "Config", runs), _config(run.config, folded=len(runs) > 1)) for run in runs),
    ]
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = (
        f"Made {made}. Rates and MFU are medians over the logged steps; steps that ran again after a resume count once."
    )
    return document(title, "pretrainx report", sections, footer)


def _of(run: Run, title: str, runs: Sequence[Run]) -> str:
    return title if len(runs) == 1 else f"{title}: {run.name}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str) -> str:
    """Cells are HTML already."""
    heading = "".join(f"<th>{cell}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    start = f"<thead><tr>{heading}</tr></thead>\n" if heading else ""
    return f'<div class="wide"><table class="{kind}">\n{start}<tbody>\n{body}\n</tbody></table></div>'


def _headline(runs: Sequence[Run]) -> str:
    """One row per run; a figure that no run has is left out."""
    figures = [_figures(run) for run in runs]
    names = [name for name in figures[0] if any(row[name] is not None for row in figures)]
    rows = []
    for index, (run, row) in enumerate(zip(runs, figures, strict=True)):
        swatch = f'<span class="swatch" style="background:{COLOURS[index % len(COLOURS)]}"></span>'
        first = [f"{swatch}{escape(run.name)}"] if len(runs) > 1 else []
        rows.append(first + [escape(row[name]) if row[name] is not None else "&ndash;" for name in names])
    head = (["run"] if len(runs) > 1 else []) + [escape(name) for name in names]
    return _table(head, rows, "headline" if len(runs) > 1 else "headline single")


def _figures(run: Run) -> dict[str, str | None]:
    """The key figures, None where the run does not have one."""

    def last(key: str, form=lambda value: f"{value:.3f}") -> str | None:
        value = run.last(key)
        return None if value is None else form(value)

    def median(key: str, form) -> str | None:
        values = run.series(key)[1]
        return form(statistics.median(values)) if values else None

    step = run.metrics[-1]["step"]
    train = run.config.get("train")
    steps = train.get("steps") if isinstance(train, Mapping) else None
    parameters, share = run.fact("parameters"), goodput(attempts(run.lines, run.events))
    return {
        "steps": f"{step:,} of {steps:,}" if isinstance(steps, int) and steps > step else f"{step:,}",
        "final train loss": last("train/loss"),
        "held-out loss": last("eval/held_out/loss"),
        "held-out accuracy": last("eval/held_out/metric/accuracy", lambda value: f"{100 * value:.1f}%"),
        "bits per byte": last("eval/held_out/bits_per_byte"),
        "trigram loss": last("eval/trigram/loss"),
        "tokens/s": median("perf/tokens_per_s", quantity),
        "examples/s": median("perf/examples_per_s", quantity),
        "MFU": median("perf/mfu", lambda value: f"{100 * value:.1f}%"),
        "goodput": None if share is None else f"{100 * share:.1f}%",
        "wall time": last("wall", duration),
        "parameters": quantity(parameters) if isinstance(parameters, (int, float)) else None,
    }


def _curves(runs: Sequence[Run]) -> str:
    curves = draw(runs)
    if not curves:
        return "<p>No metric that is drawn has a finite value yet.</p>"
    return '<div class="curves">' + "\n".join(f"<figure>{svg}</figure>" for _, svg in curves) + "</div>"


def _evaluations(records: Sequence[Mapping[str, Any]]) -> str:
    """A row for each metric of `pretrainx eval`, a column for each of the newest steps."""
    records = records[-_STEPS_SHOWN:]
    names = dict.fromkeys(name for record in records for name in record if name.startswith("eval/"))
    shown = lambda value: f"{value:.4g}" if isinstance(value, (int, float)) else "&ndash;"
    label = lambda name: f'<span class="key">{escape(name.removeprefix("eval/"))}</span>'
    rows = [[label(name), *(shown(record.get(name)) for record in records)] for name in names]
    return _table(["", *(f"step {record['step']:,}" for record in records)], rows, "config")


def _samples(samples: Sequence[Sample], most: int) -> str:
    """The newest is open, the others are folded; of many, some are shown, spread over the run."""
    count = len(samples)
    if count > most:
        chosen = {round(index * (count - 1) / (most - 1)) for index in range(most)}
        samples = [samples[index] for index in sorted(chosen)]
    blocks = []
    for index, sample in enumerate(reversed(samples)):
        label = f"step {sample.step:,}" if sample.step >= 0 else sample.name
        name = f'<span class="note">{escape(sample.name)}</span>' if sample.step >= 0 else ""
        opened = " open" if index == 0 else ""
        summary = f"<summary>{escape(label)} {name}</summary>"
        blocks.append(f"<details{opened}>{summary}<pre>{escape(sample.text)}</pre></details>")
    if count > len(samples):
        blocks.append(f'<p class="note">{len(samples)} of {count} samples are shown.</p>')
    return "\n".join(blocks)


def _pictures(run: Run) -> str:
    """Each inside the page, its pixels enlarged by a whole number and kept sharp; those that are too large by name."""
    blocks = [f'<p class="note">Too large for this page: samples/{escape(name)}</p>' for name in run.left_out]
    for picture in run.pictures:
        scale = max(1, min(_LARGEST_SCALE, _PAGE_WIDTH // max(picture.width, 1), 640 // max(picture.height, 1)))
        label = picture.name.replace("_", " ") or "picture"
        step = f'<span class="note">step {picture.step:,}</span>' if picture.step >= 0 else ""
        note = f'<br/><span class="note">{escape(picture.caption)}</span>' if picture.caption else ""
        source = f"data:image/png;base64,{base64.b64encode(picture.content).decode()}"
        size = f'width="{scale * picture.width}" height="{scale * picture.height}"'
        image = f'<img src="{source}" {size} alt="{escape(label)}"/>'
        blocks.append(f"<figure>{image}<figcaption>{escape(label)} {step}{note}</figcaption></figure>")
    return '<div class="pictures">' + "\n".join(blocks) + "</div>"


def _events(events: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(str(event.get("kind", "event")) for event in events)
    last = {str(event.get("kind", "event")): event.get("step") for event in events if "step" in event}
    parts = []
    for kind, count in counts.items():
        at = f", last at step {last[kind]:,}" if isinstance(last.get(kind), int) else ""
        parts.append(f"<li><b>{count:,}</b> {escape(kind)}{at}</li>")
    summary = f'<ul class="counts">{"".join(parts)}</ul>'
    told = [event for event in events if event.get("kind") not in _ROUTINE]
    rows = [
        (_moment(event.get("time")), escape(str(event.get("kind", "event"))), _step(event.get("step")), _facts(event))
        for event in told[-_EVENTS_SHOWN:]
    ]
    note = f'<p class="note">The last {len(rows)} of {len(told)} are listed.</p>' if len(told) > len(rows) else ""
    return summary + (_table(("time (UTC)", "event", "step", ""), rows, "events") if rows else "") + note


def _step(step: Any) -> str:
    return f"{step:,}" if isinstance(step, int) else ""


def _moment(seconds: Any) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


def _facts(event: Mapping[str, Any]) -> str:
    pairs = ((key, value) for key, value in event.items() if key not in ("kind", "time", "step"))
    return ", ".join(f'<span class="key">{escape(key)}</span>&nbsp;{_cell(value)}' for key, value in pairs)


def _config_differences(runs: Sequence[Run]) -> str:
    """The keys in which any run differs from the first, with the value of every run."""
    first, *others = runs
    paths = sorted({path for other in others for path, _, _ in difference(first.config, other.config)})
    if not paths:
        return "<p>The configs are equal.</p>"
    flat = [dict(flatten(run.config)) for run in runs]
    rows = []
    for path in paths:
        values = [_cell(leaves[path]) if path in leaves else "&ndash;" for leaves in flat]
        rows.append([f'<span class="key">{escape(path)}</span>', *values])
    return _table(["key", *(escape(run.name) for run in runs)], rows, "config")


def _config(config: Mapping[str, Any], folded: bool) -> str:
    """One small table per section, flowing in columns."""
    sections: dict[str, list[tuple[str, Any]]] = {"": []}
    for path, value in flatten(config):
        section, dot, rest = path.partition(".")
        sections.setdefault(section if dot else "", []).append((rest or section, value))
    blocks = []
    for section, leaves in sections.items():
        if leaves:
            rows = ((f'<span class="key">{escape(key)}</span>', _cell(value)) for key, value in leaves)
            blocks.append(f"<div><h3>{escape(section or 'run')}</h3>{_table((), rows, 'config')}</div>")
    body = f'<div class="sections">{"".join(blocks)}</div>'
    return f"<details><summary>show</summary>{body}</details>" if folded else body


def _cell(value: Any) -> str:
    """A value of a config or event as it is written in JSON, strings without their quotes; long ones are cut."""
    text = value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        text = f"{value:,}"
    return escape(text if len(text) <= 400 else text[:400] + " ...")
