"""Meshes and microbatches for a run on a machine: those that fit, by the least time that a step can take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pretrainx.core.errors import ConfigError, PretrainxError
from pretrainx.core.readable import quantity, size
from pretrainx.parallel.machines import Machine
from pretrainx.parallel.mesh import AXES
from pretrainx.runs import plan, plan_limits
from pretrainx.runs.plan import Layout, Plan
from pretrainx.runs.plan_changes import changed, words

# Ways at most: more tensor ways split a product too finely, and its sums must come before the next layer.
MOST = {"tensor": 8, "expert": 8, "stage": 4, "context": 4}
LONG = 8192  # tokens from which a row may be worth dividing
GIB = 2**30


@dataclass(frozen=True)
class Entry:
    """One configuration.

    Attributes:
      made: its plan; None where it was not compiled.
      reason: why it was not, in words that it shares with others; detail: what of that is its own. "" where it was.
    """

    overrides: tuple[tuple[str, Any], ...]
    made: Plan | None = None
    reason: str = ""
    detail: str = ""

    @property
    def why(self) -> str:
        return ": ".join(filter(None, (self.reason, self.detail)))


def meshes(layout: Layout) -> Iterator[dict[str, int]]:
    """Every way to lay the devices over data, fsdp and one more axis; context, expert and stage stay as they are where the
    configuration divides them. First those that communicate least, state sharded over few; of each other axis one after
    another, so that a few compiles see something of all."""
    fixed = {axis: layout.mesh[axis] for axis in ("context", "expert", "stage")}
    devices = layout.machine.devices // math.prod(fixed.values())
    choices = []
    for axis, count in (("tensor", 1), *more_ways(layout)):
        left = devices // count
        choices.append(
            [{"data": left // fsdp, "fsdp": fsdp, "tensor": 1, **fixed, axis: count} for fsdp in divisors(left)]
        )
    for turn in itertools.zip_longest(*choices):
        yield from filter(None, turn)


def more_ways(layout: Layout) -> Iterator[tuple[str, int]]:
    """(axis, parts) that the model can be cut into beside its rows and its state: heads, experts, stages of layers, and rows
    of many tokens."""
    sections = [part for _, part in plan.sections(layout.recipe.model)]
    of = lambda name: [getattr(part, name) for part in sections if hasattr(part, name)]
    experts = [section.count for section in of("experts") if section.count]
    long = [length for length in [getattr(layout.recipe.data, "length", 0)] if length >= LONG]
    divided = {"tensor": of("heads"), "expert": experts, "stage": of("depth"), "context": long}
    fixed = {axis: layout.mesh[axis] for axis in divided if axis != "tensor"}
    for axis, numbers in divided.items():
        if not numbers or fixed.get(axis, 1) > 1:
            continue
        for count in divisors(layout.machine.devices // math.prod(fixed.values()))[1:]:
            if count <= MOST[axis] and not any(number % count for number in numbers):
                yield axis, count


def divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def sweep(
    values: dict,
    machine: Machine,
    devices: list,
    effort: str,
    say: Callable[[str], None],
    compiles: int = plan_limits.SWEEP,
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
                entries.append(Entry(overrides, reason=error.what))
            continue
        counted = sum(layout.counted().values())
        if counted > machine.memory:
            large = "state, gradients and batch alone are larger than a device"
            entries.append(Entry(overrides, reason=large, detail=size(counted)))
            continue
        if not left:
            entries.append(Entry(overrides, reason="--limit is reached"))
            continue
        left -= 1
        say(f"{compiles - left} of at most {compiles}: {shown(mesh)}, {pieces} microbatches")
        try:
            made = plan.make(layout, effort)
        except (
            PretrainxError
        ) as error:  # rows that cannot be cut into so many pieces; a compiler short of the host's memory
            entries.append(Entry(overrides, reason=error.what))
            continue
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
    """A line about one plan: its peak, and the least time of a step where it fits."""
    text = f"peak {size(made.peak)} of {size(made.layout.machine.memory)}"
    if not made.fits:
        return f"{text}: does not fit"
    found = made.floor
    return f"{text}, {found.seconds:.3g} s a step at least, bound by {found.bound}" if found else text


def shown(mesh: dict[str, int]) -> str:
    """The axes that divide something: "data 2 x fsdp 4"."""
    return " x ".join(f"{axis} {ways}" for axis, ways in mesh.items() if ways > 1) or "one device"


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
            reasons[entry.reason] = reasons.get(entry.reason, 0) + 1
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
