"""What would make a run fit: the nearest change first, each compiled before it is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pretrainx.core.errors import ConfigError
from pretrainx.runs import plan, plan_limits
from pretrainx.runs.plan import Layout, Plan


@dataclass(frozen=True)
class Tried:
    """A change that was looked at.

    Attributes:
      overrides: ((dotted key, value), ...).
      peak: bytes on a device, where it was compiled; of state and batch alone, where these are too large already.
      fits, compiled: whether it does, and whether the compiler was asked.
    """

    overrides: tuple[tuple[str, Any], ...]
    peak: int
    fits: bool
    compiled: bool

    def words(self) -> str:
        return words(self.overrides)


def words(overrides: tuple[tuple[str, Any], ...]) -> str:
    """The flags of a command line."""
    return " ".join(f"--config.{key}={value}" for key, value in overrides)


def changed(values: dict, overrides: tuple[tuple[str, Any], ...]) -> dict:
    """A copy of nested values with dotted keys set."""
    values = copy.deepcopy(values)
    for key, value in overrides:
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return values


def candidates(layout: Layout) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Changes from the one that costs least: smaller pieces, then recomputation, then sharded state, then all of them.

    Smaller pieces and recomputation give the same update. The first costs nothing but more passes over the parameters, the
    second a third more arithmetic; sharding everything costs communication.
    """
    recipe = layout.recipe
    pieces = lambda times: ("train.microbatches", recipe.train.microbatches * times)
    stacks = [path for path, part in plan.sections(recipe.model) if getattr(part, "remat", "full") != "full"]
    remat = tuple((f"{path}.remat", "full") for path in stacks)
    fsdp = () if layout.mesh["data"] == 1 else (("mesh.data", 1), ("mesh.fsdp", -1))
    yield (pieces(2),)
    yield (pieces(4),)
    if remat:
        yield remat
    if fsdp:
        yield fsdp
    if remat:
        yield (pieces(4), *remat)
    if remat and fsdp:
        yield (*remat, *fsdp)
        yield (pieces(4), *remat, *fsdp)
    elif fsdp:
        yield (pieces(4), *fsdp)
    yield (pieces(16), *remat, *fsdp)


def search(
    values: dict,
    first: Plan,
    devices: list,
    effort: str,
    say: Callable[[str], None],
    compiles: int = plan_limits.SEARCH,
) -> tuple[Tried | None, tuple[Tried, ...]]:
    """(the first change that fits, or None; all that were looked at), for a plan that does not fit.

    What does not go together (a batch that does not divide) is passed over; where state and batch alone are larger than a
    device, the compiler is not asked.
    """
    tried: list[Tried] = []
    for overrides in candidates(first.layout):
        if sum(each.compiled for each in tried) == compiles:
            break
        try:
            layout = plan.lay_out(changed(values, overrides), first.layout.machine, devices)
        except ConfigError:
            continue
        counted = sum(layout.counted().values())
        if counted > layout.machine.memory:
            tried.append(Tried(overrides, counted, False, False))
            continue
        say(f"compiling with {words(overrides)}")
        found = plan.make(layout, effort)
        tried.append(Tried(overrides, found.peak, found.fits, True))
        if found.fits:
            return tried[-1], tuple(tried)
    return None, tuple(tried)
