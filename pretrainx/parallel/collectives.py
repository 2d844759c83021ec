"""What a compiled program communicates: its collectives, the mesh axes that carry them, and their bytes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jax.sharding import Mesh

from pretrainx.core.errors import PretrainxError
from pretrainx.parallel.hlo import Computation, Instruction, Program, bytes_of, parse

# How often the array goes around its group: a reduction is scattered, then gathered.
PASSES = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2, "all-to-all": 1, "ragged-all-to-all": 1}
# What a device of n sends, over the size of the whole array: rings, or pairwise exchange, none of which can send less
# (Thakur et al. 2005). A permutation sends what it is given.
SENT = {kind: lambda n, passes=passes: Fraction(passes * (n - 1), n) for kind, passes in PASSES.items()}
SENT["collective-permute"] = lambda n: Fraction(1)
# What libtpu hands over to the network between slices, as the target of a `send`.
BETWEEN_SLICES = {
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_REDUCE": "all-reduce",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}


@dataclass(frozen=True)
class Collective:
    """One collective of a compiled program, as each device meets it.

    Attributes:
      kind: a key of SENT.
      axes: the mesh axes over which the devices of a group differ, in the mesh's order.
      group: devices in a group. Where a group is a part of its axes it is less than their product.
      size: bytes of the array as a group has it: the gathered one, the one before it is reduced or scattered, what a device
        exchanges or passes on. A ragged exchange is counted as if its buffer were full.
      count: executions in a run of the program, the trips of enclosing loops multiplied.
      certain: False where an enclosing loop does not tell its trips, and was counted as one.
      where: the end of the operation's name in the source program.
      across: slices in which the devices of a group stand, where the program says it: a TPU program of several slices is that
        of one of them, and sends to others. 0 where it is one program for all.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    size: int
    count: int = 1
    certain: bool = True
    where: str = ""
    across: int = 0

    @property
    def bytes(self) -> int:
        """What one device sends, and as much it receives, in one execution: SENT x size, rounded up."""
        return math.ceil(SENT[self.kind](self.group) * self.size)

    @property
    def total(self) -> int:
        """Bytes that one device sends in a run of the program."""
        return self.bytes * self.count


@dataclass(frozen=True)
class Row:
    """All collectives of one kind over the same axes: bytes that a device sends, executions, and the one that sends most."""

    kind: str
    axes: tuple[str, ...]
    bytes: int
    count: int
    largest: Collective


def read(hlo_text: str, mesh: Mesh) -> tuple[Collective, ...]:
    """The collectives that a run of a program (`compiled.as_text()`) over `mesh` executes, in the order of its text.

    Synchronous and asynchronous ones, also inside fusions, calls and loops; of a conditional's branches the one that sends
    most. Groups of one device are left out. TPU's fusions of an all-reduce with the slices that are kept of it are what they
    do: a reduce-scatter. Of sends those are read that go to other slices. PretrainxError where the text is in no known form.
    """
    program = parse(hlo_text)
    return tuple(_of(program, program.entry, _numbers_of(mesh), {}))


def table(collectives: Iterable[Collective]) -> tuple[Row, ...]:
    """One row for each (kind, axes), most bytes first."""
    groups: dict[tuple, list[Collective]] = {}
    for each in collectives:
        groups.setdefault((each.kind, each.axes), []).append(each)
    rows = [
        Row(*key, sum(c.total for c in found), sum(c.count for c in found), max(found, key=lambda c: c.total))
        for key, found in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


@dataclass(frozen=True)
class _Numbers:
    """How a program's text calls the devices of a mesh, which have places 0, 1, ... in the mesh's own order.

    Attributes:
      inside: int[devices of a program]: the places of those that it numbers 0, 1, ...: the first slice's, or all.
      slices: int[devices]: the slice of each place.
      named: {what libtpu calls a device between slices: its place}; from the slice, counted from 1, and the order of its ids.
    """

    mesh: Mesh
    inside: np.ndarray
    slices: np.ndarray
    named: dict[int, int]


def _numbers_of(mesh: Mesh) -> _Numbers:
    devices, named = list(mesh.devices.flat), {}
    several = devices[0].platform == "tpu"
    slices = np.array([several and getattr(device, "slice_index", 0) or 0 for device in devices], int)
    for number in set(slices.tolist()):
        members = sorted(np.flatnonzero(slices == number).tolist(), key=lambda place: devices[place].id)
        named |= {100_000 * (number + 1) + rank: place for rank, place in enumerate(members)}
    return _Numbers(mesh, np.flatnonzero(slices == slices[0]), slices, named)


def _of(program: Program, computation: Computation, numbers: _Numbers, known: dict[str, list]) -> list[Collective]:
    """The collectives of a computation that runs once. `known`: those of computations that were read before."""
    if computation.name in known:
        return known[computation.name]
    found, pieces = [], set()
    inside = lambda name: _of(program, program.computations[name], numbers, known)
    for line in computation.lines.values():
        kind = line.opcode.removesuffix("-start")
        if kind in SENT:
            found += _collective(line, kind, computation, numbers)
        elif line.opcode == "send" and (between := line.attribute(r'_xla_megascale_transfer_type="(\w+)"')):
            if between not in BETWEEN_SLICES:
                raise _unreadable("what slices send to one another", between)
            found += _collective(line, BETWEEN_SLICES[between], computation, numbers)
        elif line.opcode == "while":
            body, trips = inside(line.attribute(r"\bbody=%?([\w.\-]+)")), program.trips(computation, line)
            times = lambda each, n=trips: dataclasses.replace(
                each, count=each.count * (1 if n is None else n), certain=each.certain and n is not None
            )
            found += [each for each in map(times, body) if each.count]
        elif line.branches:
            found += max(map(inside, line.branches), key=lambda branch: sum(each.total for each in branch))
        elif line.opcode.endswith(("-done", "-update")) or not line.called:
            continue  # what was started is counted where it starts
        else:
            for name in line.called:
                # TPUs spread one collective over neighbouring fusions: each holds it whole, under the same channel and chain.
                chain = _chain(program.computations[name])
                if chain and chain in pieces:
                    continue
                pieces.add(chain)
                found += inside(name) if "all-reduce-scatter" not in name else _scattered(inside(name), line)
    known[computation.name] = found
    return found


def _collective(line: Instruction, kind: str, computation: Computation, numbers: _Numbers) -> list[Collective]:
    """The one that a line starts; none where its groups are single devices."""
    mesh, inside = numbers.mesh, numbers.inside
    if line.opcode == "send":
        groups = _targets(line.rest, numbers.named)
    elif kind == "collective-permute":
        groups = inside[_numbers(line.attribute(r"source_target_pairs=\{(\{.*?\}|)\}"))]
    else:
        groups = inside[_groups(line.rest, inside.size)]
    axes = _axes(groups, mesh)
    if not axes:
        return []
    across = max(len(set(group)) for group in numbers.slices[groups].tolist()) if inside.size < mesh.size else 0
    group = math.prod(mesh.shape[axis] for axis in axes) if kind == "collective-permute" else groups.shape[1]
    # Operands say the size in every form; results of asynchronous starts are tuples of operands, results and counters.
    operands = line.operands[:1] if kind == "ragged-all-to-all" or line.opcode == "send" else line.operands
    size = sum(bytes_of(computation.lines[name].type) for name in operands) * (group if kind == "all-gather" else 1)
    where = line.attribute(r'op_name="([^"]*)"')
    return [Collective(kind, axes, group, size, where="/".join(where.split("/")[-3:]), across=across)]


def _scattered(found: list[Collective], fusion: Instruction) -> list[Collective]:
    """An all-reduce of which each device keeps its own part."""
    kept = bytes_of(fusion.type)
    if [each.kind for each in found] != ["all-reduce"] or kept * found[0].group != found[0].size:
        return found
    return [dataclasses.replace(found[0], kind="reduce-scatter")]


def _chain(computation: Computation) -> str:
    """The chain of fusions that a collective in a computation is spread over, "" where there is none."""
    chains = (
        line.attribute(r'chain_id="(\d+)"')
        for line in computation.lines.values()
        if line.opcode.removesuffix("-start") in SENT
    )
    return next(filter(None, chains), "")


def _groups(attributes: str, devices: int) -> np.ndarray:
    """int[groups, devices of each]: places in the order of the program's devices. Three spellings: `{{0,1},{2,3}}`;
    `[2,2]<=[2,2]T(1,0)`, a transposed count; `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}`, axes of a mesh of XLA's own,
    whole or in part (`'b':(1)2`)."""
    if found := re.search(r"replica_groups=(\{\{.*?\}\})", attributes):
        return _numbers(found[1])
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\S*?)(?:, |$|\s)", attributes):
        return _counted(found[3]).reshape(int(found[1]), int(found[2]))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", attributes):
        sides = {name: int(side) for name, side in re.findall(r"'?([^',=]+)'?=(\d+)", found[1])}
        order = _counted(found[2] or f"[{devices}]")
        split, grouped = _sub_axes(sides, found[3])
        order = order.reshape(split)
        last = np.moveaxis(order, grouped, range(len(split) - len(grouped), len(split)))
        return last.reshape(-1, math.prod(split[axis] for axis in grouped))
    if found := re.search(r"replica_groups=(?!\{\})(.{,80})", attributes):
        raise _unreadable("the groups of a collective", f"replica_groups={found[1]}")
    return np.arange(devices)[None]  # none, or {}: all


def _targets(attributes: str, named: dict[int, int]) -> np.ndarray:
    """int[groups, devices of each]: places. Two spellings: `"{1,2}x{0:3}"`, each of four devices with those of the other slice;
    `{{100000,200000},{100001,200001}}`, or `{100000->200000}` of a permutation."""
    text = re.search(r'_xla_megascale_target=("[^"]*"|\{\{.*?\}\})', attributes)
    text = text[1] if text else ""
    if found := re.fullmatch(r'"\{([\d,]+)\}x\{(\d+):(\d+)\}"', text):
        slices, ranks = [int(number) for number in found[1].split(",")], range(int(found[2]), int(found[3]) + 1)
        groups = np.array([[100_000 * number + rank for number in slices] for rank in ranks])
    else:
        groups = _numbers(text.replace("->", ","))
    if not groups.size or not set(groups.flat) <= named.keys():
        raise _unreadable("to which devices of other slices something is sent", text[:80])
    return np.vectorize(named.get)(groups)


def _unreadable(what: str, why: str) -> PretrainxError:
    return PretrainxError(
        f"{what} cannot be read",
        where="the compiled program",
        why=why,
        do="report it with the versions of jax and libtpu: XLA has found another spelling",
    )


def _counted(text: str) -> np.ndarray:
    """0, 1, 2, ... laid out as `[2,4]T(1,0)` says and read in the transposed order; or the numbers themselves, `0,2,1,3`."""
    found = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text.split("<=")[-1].strip())
    if found is None:
        return np.array([int(number) for number in re.findall(r"\d+", text)])
    sides = [int(side) for side in found[1].split(",")]
    order = [int(axis) for axis in found[2].split(",")] if found[2] else range(len(sides))
    return np.arange(math.prod(sides)).reshape(sides).transpose(order).ravel()


def _sub_axes(sides: dict[str, int], axes: str) -> tuple[list[int], list[int]]:
    """(sides of a mesh, its axes split where only a part of them is meant; which of these are grouped)"""
    parts = {}
    for name, before, part in re.findall(r"'?([^',:{}]+)'?(?::\((\d+)\)(\d+))?", axes):
        parts.setdefault(name, []).append((int(before), int(part)) if before else (1, sides[name]))
    split, grouped = [], []
    for name, side in sides.items():
        reached = 1
        for before, part in sorted(parts.get(name, [])):
            split += [before // reached, part]
            grouped.append(len(split) - 1)
            reached = before * part
        split.append(side // reached)
    return split, grouped


def _numbers(text: str) -> np.ndarray:
    """{{0,1},{2,3}}"""
    return np.array([[int(number) for number in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", text)], int)


def _axes(groups: np.ndarray, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes over which members of a group differ; places count the mesh's devices in its own order."""
    if groups.size == 0:
        return ()
    places = np.stack(np.unravel_index(groups, mesh.devices.shape))
    differ = (places != places[..., :1]).any((1, 2))
    return tuple(axis for axis, differs in zip(mesh.axis_names, differ, strict=True) if differs)
