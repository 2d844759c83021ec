"""What a study costs, a line for each run: sizes, units, steps, FLOPs, hours, bytes on a device; then all of it together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import jax

from pretrainx.core import json_lines
from pretrainx.core.readable import aligned, duration, quantity, size
from pretrainx.runs import recipe as recipes
from pretrainx.scaling.manifest import Manifest, Run
from pretrainx.training.peak import PEAKS

ASSUMED = 0.4  # of an accelerator's peak
ROUNDED = 0.01  # FLOPs that whole steps change by more are marked
HEADS = ("budget", "shape", "N", "without tables", "D", "D/N", "epochs", "steps", "batch", "rate", "FLOPs", "time")


def lines(manifest: Manifest, rate: float | None = None, source: str = "") -> Iterator[str]:
    """The table. `rate`: FLOP/s by which times are told, `source`: where it is from."""
    runs, cells = ordered(manifest), lambda run: row(run, rate)
    heads = HEADS
    if manifest.kind == "grid":
        varied = list(dict.fromkeys(key for run in runs for key in run.changes))
        heads = (*varied, *HEADS[2:])
        cells = lambda run: (*(str(run.changes.get(key, "")) for key in varied), *row(run, rate)[2:])
    table = [heads, *map(cells, runs)]
    yield from aligned(table, right=True)
    facts, units = manifest.facts, math.fsum(run.facts["tokens"] for run in runs)
    flops = f"{facts['flops']:.3g} FLOPs ({facts['convention']})" if facts["flops"] else "FLOPs not counted"
    yield f"{len(runs)} runs, {flops}, {quantity(units)} {facts['unit']}s; N counts {facts['counted']}"
    if facts["bytes"]:
        kinds = ", ".join(f"{kind} {size(count)}" for kind, count in facts["bytes"].items())
        yield f"state of the largest model, on each device here: {kinds}"
    if rate and facts["flops"]:
        yield f"time: {duration(facts['flops'] / rate)} one after another, at {rate:.3g} FLOP/s ({source})"
    elif facts["flops"]:
        yield "time: not known; --flops_per_second=F tells it, and so do runs that are done"
    yield from schedules(runs) if manifest.kind in ("ladder", "both") else ()
    yield from (f"warning: {note}" for note in facts["notes"])


def schedules(runs: list[Run]) -> Iterator[str]:
    """How each rung of a ladder is trained: learning rates on the way, evaluations, checkpoints."""
    yield "schedules: rate at the first step, after the warm-up, halfway, at the last step; then what is done on the way"
    for run in runs:
        recipe = recipes.parse(run.config)
        train, schedule = recipe.train, recipe.schedule.over(recipe.train.steps)
        places = (0, run.facts["warmup"], train.steps // 2, train.steps - 1)
        rates = ", ".join(f"{float(schedule(place)):.3g} @ {place}" for place in places)
        evaluated = f"evaluated every {train.eval_every} and at the end" if train.eval_every else "evaluated at the end"
        saved = (
            f"saved every {recipe.checkpoint.every}" if recipe.checkpoint.every < train.steps else "saved at the end"
        )
        yield f"  {run.id}: {rates}; {evaluated}, {saved}"


def ordered(manifest: Manifest) -> list[Run]:
    """By budget, then by size, then by length."""
    key = lambda run: (run.facts["budget"] or 0.0, run.facts["parameters"][run.facts["counted"]], run.facts["tokens"])
    return sorted(manifest.runs, key=key)


def row(run: Run, rate: float | None) -> tuple[str, ...]:
    facts = run.facts
    hidden = facts["parameters"].get("without_vocabulary")
    budget = f"{facts['budget']:.3g}" if facts["budget"] else f"x{facts['multiple']:g}" if "multiple" in facts else ""
    mark = "!" if abs(facts.get("flops_error", 0.0)) > ROUNDED else ""
    return (
        budget,
        facts.get("shape", ""),
        quantity(facts["parameters"][facts["counted"]]),
        quantity(hidden) if hidden else "-",
        quantity(facts["tokens"]),
        f"{facts['tokens_per_parameter']:.3g}",
        "?" if facts["epochs"] is None else f"{facts['epochs']:.2g}",
        str(facts["steps"]),
        str(facts["batch_size"]),
        f"{facts['learning_rate']:.3g}",
        f"{facts['flops']:.3g}{mark}" if facts["flops"] else "?",
        duration(facts["flops"] / rate) if rate and facts["flops"] else "?",
    )


def measured(directory: Path) -> float | None:
    """FLOP/s that runs of the study that are done have reached, evaluation and saving included; None where none is done."""
    rows = json_lines.read(directory / "results.jsonl")
    done = [found for found in rows if found.get("status") == "done" and found.get("seconds") and found.get("flops")]
    return sum(found["flops"] for found in done) / sum(found["seconds"] for found in done) if done else None


def assumed() -> float | None:
    """FLOP/s of the accelerators here at an assumed share of their peak; None on a CPU, where small models reach anything."""
    devices = jax.devices()
    peak = PEAKS.get(devices[0].device_kind)
    return ASSUMED * peak * len(devices) if peak else None
