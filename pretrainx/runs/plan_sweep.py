"""Meshes and microbatches for a run on a machine: those that fit, by the least time that a step can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import quantity
from pretrainx.parallel.machines import Machine
from pretrainx.parallel.mesh import AXES
from pretrainx.runs import plan
from pretrainx.runs.plan import Layout, Plan
from pretrainx.runs.plan_changes import changed, words

COMPILES = 8  # at most, where --limit does not say
TENSOR = 8  # ways at most: more splits a product too finely, and its sums must come before the next layer
GIB = 2**30


@dataclass(frozen=True)
class Entry:
    """One configuration. `why` it was not compiled; "" where it was, and `made` is its plan."""

    overrides: tuple[tuple[str, Any], ...]
    made: Plan | None = None
    why: str = ""


def meshes(layout: Layout) -> Iterator[dict[str, int]]:
    """Every way to lay the devices over data, fsdp and tensor; other axes stay as they are. First those that communicate least:
    no tensor axis, and state sharded over few."""
    fixed = {axis: layout.mesh[axis] for axis in ("context", "expert", "stage")}
    devices = layout.machine.devices // math.prod(fixed.values())
    heads = [part.heads for _, part in plan.sections(layout.recipe.model) if hasattr(part, "heads")]
    ways = [count for count in divisors(devices) if count <= TENSOR and not any(head % count for head in heads)]
    for tensor in ways:
        for fsdp in divisors(devices // tensor):
            yield {"data": devices // tensor // fsdp, "fsdp": fsdp, "tensor": tensor, **fixed}


def divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def sweep(
    values: dict,
    machine: Machine,
    devices: list,
    effort: str,
    say: Callable[[str], None],
    compiles: int = COMPILES,
) -> list[Entry]:
    """All meshes that were looked at; those that fit first, fastest first.

    Of each mesh the number of microbatches is halved while it fits and doubled while it does not, from the configuration's on:
    fewer pieces are never slower by this floor. A mesh whose state and batch alone are too large is not compiled, nor is one
    that the batch does not divide over; `compiles` bounds the rest, one for each mesh before any has two.
    """
    first = plan.lay_out(values, machine, devices)
    entries: list[Entry] = []
    open_ends: list[tuple[dict[str, int], int, int]] = []  # (mesh, microbatches to try next, direction so far)
    for mesh in meshes(first):
        open_ends.append((mesh, first.recipe.train.microbatches, 0))
    left = compiles
    while open_ends:
        mesh, pieces, direction = open_ends.pop(0)
        overrides = (*((f"mesh.{axis}", mesh[axis]) for axis in AXES), ("train.microbatches", pieces))
        try:
            layout = plan.lay_out(changed(values, overrides), machine, devices)
        except ConfigError as error:
            if direction == 0:
                entries.append(Entry(overrides, why=error.what))
            continue
        counted = sum(layout.counted().values())
        if counted > machine.memory:
            entries.append(Entry(overrides, why=f"{counted / GIB:.1f} GiB of state, gradients and batch"))
            continue
        if not left:
            entries.append(Entry(overrides, why="--limit is reached"))
            continue
        left -= 1
        say(f"{compiles - left} of at most {compiles}: {shown(mesh)}, {pieces} microbatches")
        made = plan.make(layout, effort)
        entries.append(Entry(overrides, made))
        say(f"  {outcome(made)}")
        turn = 1 if not made.fits else -1
        if direction in (0, turn) and not (turn < 0 and pieces % 2):
            open_ends.append((mesh, pieces * 2 if turn > 0 else pieces // 2, turn))
    return sorted(entries, key=_order)


def _order(entry: Entry) -> tuple:
    made = entry.made
    return (
        made is None,
        made is not None and not made.fits,
        made.step_seconds if made else 0.0,
        made.peak if made else 0,
    )


def outcome(made: Plan) -> str:
    text = f"peak {made.peak / GIB:.2f} GiB of {made.layout.machine.memory / GIB:.2f}"
    if not made.fits:
        return f"{text}: does not fit"
    found = made.floor
    return f"{text}, {found.seconds:.3g} s a step at least, bound by {found.bound}" if found else text


def shown(mesh: dict[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "one device"


def lines(entries: list[Entry]) -> Iterator[str]:
    """A table: rank, mesh, microbatches, peak, step, MFU; then what was left out, by reason."""
    ranked = [entry.made for entry in entries if entry.made is not None]
    unit = ranked[0].layout.parts.unit if ranked else "tok"
    yield f"{'':>3} {'mesh':<40} {'microbatches':>12} {'peak GiB':>9} {'step s':>9} {unit + '/s':>9} {'MFU':>6}  bound"
    for place, made in enumerate(ranked, 1):
        row = f"{place:>3} {shown(made.layout.mesh):<40} {made.layout.recipe.train.microbatches:>12} {made.peak / GIB:>9.2f}"
        if not made.fits or made.floor is None:
            yield f"{row} {'does not fit':>26}"
            continue
        found = made.floor
        mfu = f"{found.mfu:.0%}"
        yield f"{row} {found.seconds:>9.3g} {quantity(found.units_per_second):>9} {mfu:>6}  {found.bound}"
    reasons: dict[str, int] = {}
    for entry in entries:
        if entry.made is None:
            kind = "state, gradients and batch alone are larger than a device" if "GiB" in entry.why else entry.why
            reasons[kind] = reasons.get(kind, 0) + 1
    for reason, count in reasons.items():
        yield f"{count} not compiled: {reason}"
    best = next((entry for entry in entries if entry.made is not None and entry.made.fits), None)
    yield f"best: {words(best.overrides)}" if best else "none of them fits"


def record(entries: list[Entry]) -> list[dict[str, Any]]:
    """As JSON has it, in the order of the table."""
    found = []
    for entry in entries:
        values = {"overrides": dict(entry.overrides), "compiled": entry.made is not None, "why": entry.why}
        if entry.made is not None:
            made = entry.made
            values |= {"fits": made.fits, "peak": made.peak, "floor": made.floor and made.floor.record()}
            values |= {"compile_seconds": round(made.compiled.seconds, 2)}
        found.append(values)
    return found
