"""The least time that a step can take on a machine: its arithmetic, its memory's traffic, and what its links carry.

Three clocks run side by side on an accelerator. The step takes at least as long as the slowest of them, where everything
overlaps, and at most as long as all of them together, where nothing does (Williams et al. 2009; Austin et al. 2025, "How to
scale your model", part 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from pretrainx.core.readable import quantity
from pretrainx.parallel.collectives import PASSES, Collective
from pretrainx.parallel.machines import Machine


@dataclass(frozen=True)
class Link:
    """What one set of mesh axes asks of the links in a step.

    Attributes:
      axes: of the mesh; sent: bytes of a device over them.
      inside, across: seconds on the fast links of a slice or host (ICI, NVLink), and on the network between these.
    """

    axes: tuple[str, ...]
    sent: int
    inside: float
    across: float

    def record(self) -> dict:
        return {
            "axes": list(self.axes),
            "bytes": self.sent,
            "seconds_inside": self.inside,
            "seconds_across": self.across,
        }


@dataclass(frozen=True)
class Floor:
    """The bounds of one step; bytes and FLOPs are of one device.

    Attributes:
      compute: seconds of the executed FLOPs at the peak of the dtype; memory: of the traffic with HBM.
      links: by mesh axes, most seconds first.
      flops, model_flops: executed ones, and those without recomputation, from which MFU is stated.
      hbm_bytes: moved between the chip and its memory.
      units: tokens or examples of the global batch.
      bubble: the share of a pipeline's ticks in which a stage works in vain: FLOPs, bytes and seconds hold them already.
      compute_dtype: whose peak `compute` is stated at.
    """

    machine: Machine
    compute: float
    memory: float
    links: tuple[Link, ...]
    flops: float
    model_flops: float
    hbm_bytes: float
    units: float
    bubble: float = 0.0
    compute_dtype: str = "bfloat16"

    @property
    def inside(self) -> float:
        """Seconds of the fast links. Collectives on the same links follow one another."""
        return sum(link.inside for link in self.links)

    @property
    def across(self) -> float:
        """Seconds of the network between slices or hosts."""
        return sum(link.across for link in self.links)

    @property
    def interconnect(self) -> float:
        """Seconds of the slower of the two networks, which work side by side."""
        return max(self.inside, self.across)

    @property
    def sent(self) -> int:
        return sum(link.sent for link in self.links)

    @property
    def seconds(self) -> float:
        """The floor: everything overlaps."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def serial(self) -> float:
        """The other end: nothing overlaps."""
        return self.compute + self.memory + self.inside + self.across

    @property
    def bound(self) -> str:
        """Which clock is the slowest."""
        clocks = {"compute": self.compute, "memory": self.memory, "inside": self.inside, "across": self.across}
        names = {"inside": "fast links", "across": "network"}
        slowest = max(clocks, key=clocks.get)
        return names.get(slowest, slowest)

    @property
    def mfu(self) -> float:
        """The most that model FLOPs can be of the peak, where everything overlaps."""
        return self._utilisation(self.seconds)

    @property
    def mfu_serial(self) -> float:
        return self._utilisation(self.serial)

    def _utilisation(self, seconds: float) -> float:
        return self.model_flops / (self.machine.flops(self.compute_dtype) * seconds) if seconds else 0.0

    @property
    def units_per_second(self) -> float:
        return self.units / self.seconds if self.seconds else math.inf

    @property
    def intensity(self) -> dict[str, float]:
        """Executed FLOPs per byte of HBM traffic and per byte sent; the machine's own are what it could do meanwhile. A step is
        bound by what it has less of than the machine."""
        peak, machine = self.machine.flops(self.compute_dtype), self.machine
        return {
            "flops_per_hbm_byte": self.flops / self.hbm_bytes if self.hbm_bytes else math.inf,
            "machine_flops_per_hbm_byte": peak / machine.hbm,
            "flops_per_sent_byte": self.flops / self.sent if self.sent else math.inf,
            "machine_flops_per_sent_byte": peak / machine.ici,
            "machine_flops_per_byte_across": peak / machine.dcn,
        }

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        peak, ratio = self.machine.flops(self.compute_dtype), self.intensity
        if not self.machine.real:
            yield "simulated devices have no rates: these are of an imagined accelerator, to rank plans by"
        yield f"{'compute':<22}{time(self.compute):>10}   {self.flops:.3g} FLOPs at {quantity(peak)}FLOP/s"
        yield (
            f"{'memory':<22}{time(self.memory):>10}   {self.hbm_bytes / 1e9:.3g} GB at {self.machine.hbm / 1e9:.4g} GB/s; "
            f"{ratio['flops_per_hbm_byte']:.0f} FLOPs a byte, the machine's {ratio['machine_flops_per_hbm_byte']:.0f}"
        )
        for link in self.links:
            for name, seconds in (("fast links", link.inside), ("network", link.across)):
                if seconds:
                    share = f"; {self.flops / link.sent:.0f} FLOPs a byte" if link.sent else ""
                    yield f"{name + ' ' + '+'.join(link.axes):<22}{time(seconds):>10}   {link.sent / 1e9:.3g} GB sent{share}"
        if self.bubble:
            yield f"{'bubble':<22}{self.bubble:>10.1%}   of a stage's ticks are in vain, counted above"
        yield (
            f"{'step, at least':<22}{time(self.seconds):>10}   bound by {self.bound}: {quantity(self.units_per_second)}/s, "
            f"MFU at most {self.mfu:.1%}"
        )
        yield f"{'without any overlap':<22}{time(self.serial):>10}   MFU {self.mfu_serial:.1%}"

    def record(self) -> dict:
        """As JSON has it; what has no finite value is null."""
        ratios = {name: value if math.isfinite(value) else None for name, value in self.intensity.items()}
        return {
            "seconds": self.seconds,
            "seconds_without_overlap": self.serial,
            "bound": self.bound,
            "compute": self.compute,
            "memory": self.memory,
            "inside": self.inside,
            "across": self.across,
            "links": [link.record() for link in self.links],
            "bubble": self.bubble,
            "flops": self.flops,
            "model_flops": self.model_flops,
            "hbm_bytes": self.hbm_bytes,
            "units_per_second": self.units_per_second,
            "mfu": self.mfu,
            "mfu_without_overlap": self.mfu_serial,
            **ratios,
            "real": self.machine.real,
        }


def time(seconds: float) -> str:
    """1.234 s, 56.7 ms, 8.9 us"""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.4g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def floor(
    machine: Machine,
    flops: float,
    hbm_bytes: float,
    collectives: Sequence[Collective],
    mesh: Mesh | AbstractMesh,
    units_per_step: float,
    *,
    model_flops: float | None = None,
    compute_dtype: str = "bfloat16",
    bubble: float = 0.0,
) -> Floor:
    """The bounds of a step of these collectives over `mesh`, whose devices are the machine's.

    Args:
      flops: executed on one device, recomputation included. hbm_bytes: of one device, see `traffic`.
      units_per_step: tokens or examples of the global batch.
      mesh: an abstract one is laid over slices or hosts in the order of its axes, the last one varying fastest.
      model_flops: of one device without recomputation; left out, as many as `flops`.
      bubble: of a pipeline, to be shown: its ticks in vain are executed, and so are in `flops` and `collectives`.
    """
    islands, links = _islands(machine, mesh), {}
    for each in collectives:
        members, parts = (each.group // each.across, each.across) if each.across else reach(islands, mesh, each)
        inside, across = moved(each.kind, each.size, members, parts)
        sums = links.setdefault(each.axes, [0, 0.0, 0.0])
        sums[0] += each.total
        sums[1] += each.count * inside / _rate(machine, islands, mesh, each, members)
        sums[2] += each.count * across / machine.dcn
    ordered = sorted((Link(axes, *sums) for axes, sums in links.items()), key=lambda link: -link.inside - link.across)
    peak = machine.flops(compute_dtype)
    return Floor(
        machine,
        flops / peak,
        hbm_bytes / machine.hbm,
        tuple(ordered),
        flops,
        flops if model_flops is None else model_flops,
        hbm_bytes,
        units_per_step,
        bubble,
        compute_dtype,
    )


def moved(kind: str, size: int, members: int, parts: int) -> tuple[float, float]:
    """(bytes of one device inside its slice or host, bytes across these) of a collective of `size` bytes.

    A group has `members` devices in each of `parts` slices. Gathering and reducing go in two steps, of which the one across
    moves what a device of the slice stands for, size / members; that is the least (Thakur et al. 2005; XLA does so between
    slices). An exchange cannot be shared. Of a permutation across slices the devices at the border wait for the network.
    """
    if kind == "collective-permute":
        return (0.0, float(size)) if parts > 1 else (float(size), 0.0)
    if kind.endswith("all-to-all"):
        return size * (members - 1) / (members * parts), size * (parts - 1) / parts
    passes = PASSES[kind]
    return passes * size * (members - 1) / members, passes * size / members * (parts - 1) / parts


def reach(islands: np.ndarray, mesh: Mesh | AbstractMesh, collective: Collective) -> tuple[int, int]:
    """(devices of a group that share fast links, how many slices or hosts the group spans). A group that is a part of its axes
    is taken to stay inside as far as it can."""
    lines = _along(islands, mesh, collective.axes)
    parts = max(len(set(line.tolist())) for line in lines)
    members = min(collective.group, math.ceil(lines.shape[1] / parts))
    return members, math.ceil(collective.group / members)


def _along(values: np.ndarray, mesh: Mesh | AbstractMesh, axes: tuple[str, ...]) -> np.ndarray:
    """[lines, devices of a line, ...] of what each device of the mesh has: a line varies over `axes` alone."""
    places = [mesh.axis_names.index(axis) for axis in axes]
    last = np.moveaxis(values, places, range(len(places)))
    length = math.prod(values.shape[place] for place in places)
    rest = values.shape[len(mesh.axis_names) :]
    return last.reshape(length, -1, *rest).swapaxes(0, 1)


def _islands(machine: Machine, mesh: Mesh | AbstractMesh) -> np.ndarray:
    """The number of the slice or host that each device of the mesh stands in, shaped as the mesh."""
    if isinstance(mesh, AbstractMesh) or machine.platform == "cpu":
        shape = tuple(mesh.shape[axis] for axis in mesh.axis_names)
        return (np.arange(math.prod(shape)) // machine.devices_per_slice).reshape(shape)
    name = "process_index" if machine.platform == "cuda" else "slice_index"
    return np.vectorize(lambda device: getattr(device, name, 0) or 0, otypes=[int])(mesh.devices)


def _rate(
    machine: Machine, islands: np.ndarray, mesh: Mesh | AbstractMesh, collective: Collective, members: int
) -> float:
    """bytes/s, one direction, that a device has for a collective inside its slice or host.

    A switch (NVLink) gives all there is. On a torus only the links along those of its sides that the group spans work: two of
    a side that closes to a ring, else one. Where devices have no places (an abstract mesh) a group that fills a slice of closed
    sides has all links, another one half of them. A permutation goes one way, over one link. Of an exchange the middle of
    each side, n long, carries n / 4 of what a device has: the longest one holds it up.
    """
    if machine.platform != "tpu" or members == 1:
        return machine.ici
    closes, link = machine.generation.closes, machine.generation.link / machine.generation.devices
    if collective.kind == "collective-permute":
        return link
    exchange = collective.kind.endswith("all-to-all")
    if isinstance(mesh, AbstractMesh):
        whole = members == machine.devices_per_slice and min(machine.shape) >= closes
        rate, longest = machine.ici / (1 if whole else 2), min(members, max(machine.shape))
        return min(rate, (8 if whole else 4) * link / longest) if exchange else rate
    places = np.array([device.coords for device in mesh.devices.flat]).reshape(*mesh.devices.shape, -1)
    line, island = (_along(values, mesh, collective.axes)[0] for values in (places, islands))
    spans = [len(set(side)) for side in line[island == island[0]].T.tolist()]
    sides = zip(spans, (*machine.shape, 1, 1), strict=False)
    used = [(2 if span == side >= closes else 1, span) for span, side in sides if span > 1]
    rate = sum(links for links, _ in used) * link or machine.ici
    return min([rate, *(4 * links / span * link for links, span in used)]) if exchange else rate


def traffic(
    parameters: float,
    gradients: float,
    optimizer: float,
    averages: float,
    activations: float,
    *,
    passes: int = 2,
    microbatches: int = 1,
) -> float:
    """Bytes between one device and its HBM in a step, from the bytes that it holds: a low estimate, everything is moved as
    seldom as can be.

    Args:
      parameters: what a pass multiplies by, gathered and in the dtype of computation; read by each of `passes` (forward,
        backward, and a recomputed forward) of each microbatch.
      gradients: as stored; written and read once for each microbatch. The update reads and writes parameters as large.
      optimizer, averages: read and written by the update.
      activations: what the forward pass of a microbatch leaves for the backward pass; written and read.
    """
    reading = parameters * passes * microbatches
    update = 2 * (gradients + optimizer + averages)
    return reading + 2 * microbatches * (gradients + activations) + update
