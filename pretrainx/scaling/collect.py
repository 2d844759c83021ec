"""From the files of runs to one tidy table, DIR/results.csv and .jsonl: a row per run, its last held-out loss in it.

DIR/curves.csv and .jsonl have the same columns and a row per evaluation, for fits of whole curves.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrainx.core import json_lines
from pretrainx.core.whole_file import write_whole
from pretrainx.scaling import manifest, status
from pretrainx.scaling.status import Standing

METRIC = "held_out/loss"
COLUMNS = (
    "run", "status", "objective", "seed", "budget", "parameters", "parameters_hidden", "parameters_active", "counted", "tokens",
    "unit", "unique_tokens", "flops", "flops_6nd", "convention", "loss", "loss_error", "bits_per_byte", "learning_rate",
    "batch_size", "steps", "seconds", "mfu", "config", "version",
)  # fmt: skip
Row = dict[str, Any]


def collect(directory: Path, standings: Mapping[str, Standing] | None = None) -> list[Row]:
    """Writes both tables of a study and returns the rows of the first, in the order of the manifest.

    `standings`: of runs whose state is known better than their files say it, such as those that are running.
    """
    directory, known = Path(directory), standings or {}
    study = manifest.read(directory)
    metric = metric_of(study.study)
    rows, points = [], []
    for run in study.runs:
        found = known.get(run.id) or status.standing(directory, run)
        records = json_lines.read_metrics(manifest.workdir(directory, run) / "metrics.jsonl")
        facts = row_of(directory, run, found, records)
        evaluations = [record for record in records if f"eval/{metric}" in record]
        curve = [at_step(facts, record, metric, found.steps) for record in evaluations]
        points += curve
        last = curve[-1] if curve and curve[-1]["steps"] == found.steps else {}
        rows.append(facts | {name: last.get(name) for name in ("loss", "loss_error", "bits_per_byte")})
    write(directory / "results", rows)
    write(directory / "curves", points)
    return rows


def metric_of(study: Mapping[str, Any]) -> str:
    """What the loss of a run is, of the section `study`."""
    return study.get("metric") or METRIC


def evaluated(workdir: Path) -> list[str]:
    """What evaluations of a run measured, as config.study.metric may name it."""
    records = json_lines.read_metrics(workdir / "metrics.jsonl")
    names = {name.removeprefix("eval/") for record in records for name in record if name.startswith("eval/")}
    return sorted(name for name in names if not name.endswith("_error"))


def lacks(directory: Path, study: manifest.Manifest, run: manifest.Run) -> str:
    """What to say of a run that is done and was never evaluated by the study's metric; "" where it was."""
    metric, found = metric_of(study.study), evaluated(manifest.workdir(directory, run))
    if metric in found:
        return ""
    return (
        f"{run.id}: no {metric}, by which runs are compared; evaluated were: {', '.join(found) or 'nothing'}. "
        "The same `scaling plan` with --config.study.metric=NAME chooses another one, and no run is lost"
    )


def row_of(directory: Path, run: manifest.Run, found: Standing, records: Sequence[Mapping[str, Any]]) -> Row:
    """All of a run's row but what was evaluated."""
    facts, config, counts = run.facts, run.config, run.facts.get("parameters") or {}
    events = json_lines.read(manifest.workdir(directory, run) / "events.jsonl")
    utilisation = [record["perf/mfu"] for record in records if "perf/mfu" in record]
    walls = [entry["wall"] for entry in (*records, *events) if "wall" in entry]
    ended = status.verdict(directory, run)
    known = {
        "run": run.id,
        "status": found.state,
        "objective": config["objective"]["name"],
        "seed": config["seed"],
        "parameters": counts.get(facts.get("counted", "total")),
        "parameters_hidden": counts.get("hidden"),
        "parameters_active": counts.get("active"),
        "learning_rate": facts.get("learning_rate", config["schedule"].get("peak")),
        "batch_size": config["train"]["batch_size"],
        "steps": config["train"]["steps"],
        "seconds": walls[-1] if walls else None,
        "mfu": statistics.median(utilisation) if utilisation else None,
        "config": manifest.identity(config),
        "version": ended.version if ended else None,
    }
    return {name: known.get(name, facts.get(name)) for name in COLUMNS}


def at_step(facts: Row, record: Mapping[str, Any], metric: str, steps: int) -> Row:
    """A run's row as it was at one of its evaluations: what it had read and cost by then, and its loss."""
    behind = record["step"] / steps
    scaled = {name: facts[name] and facts[name] * behind for name in ("tokens", "flops", "flops_6nd")}
    repeated = facts["unique_tokens"] and min(facts["unique_tokens"], scaled["tokens"])
    split = metric.partition("/")[0]
    return facts | scaled | {
        "unique_tokens": repeated,
        "steps": record["step"],
        "seconds": record.get("wall"),
        "loss": record[f"eval/{metric}"],
        "loss_error": record.get(f"eval/{metric}_error"),
        "bits_per_byte": record.get(f"eval/{split}/bits_per_byte"),
    }  # fmt: skip


def write(path: Path, rows: Sequence[Row]) -> None:
    """PATH.jsonl and PATH.csv; an empty cell is a number that is unknown."""
    write_whole(path.with_suffix(".jsonl"), "".join(json_lines.encode(row) + "\n" for row in rows))
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if unknown(value) else value for name, value in row.items()} for row in rows)
    write_whole(path.with_suffix(".csv"), text.getvalue())


def unknown(value: Any) -> bool:
    return value is None or isinstance(value, float) and math.isnan(value)
