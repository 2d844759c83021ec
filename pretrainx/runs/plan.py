"""A run on a machine that is not there: its real train step is compiled, and what that says is put together."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pretrainx.core.leaves import bytes_of
from pretrainx.models.decoder import DecoderConfig
from pretrainx.parallel import collectives, pipeline
from pretrainx.parallel.collectives import Collective
from pretrainx.parallel.machines import Machine
from pretrainx.runs import assumed, replicas, roofline
from pretrainx.runs.compiled import Compiled, abstract_batch, compile_step, counted_bytes
from pretrainx.runs.parts import Parts, assemble
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.runs.resume import plain
from pretrainx.runs.roofline import Floor
from pretrainx.training import replicated
from pretrainx.training import state as states
from pretrainx.training.restore import as_tree

VERSION = 1  # of the JSON form


@dataclass(frozen=True)
class Layout:
    """A run laid over a machine, not compiled yet.

    Attributes:
      assumed: what the data would have decided, a line each.
      like: the abstract state.
    """

    recipe: Recipe
    machine: Machine
    parts: Parts
    like: states.TrainState
    assumed: tuple[str, ...]

    @property
    def rows(self) -> int:
        return self.recipe.train.batch_size

    @property
    def mesh(self) -> dict[str, int]:
        return dict(self.parts.rules.mesh.shape)

    def counted(self) -> dict[str, int]:
        return counted_bytes(self.like, abstract_batch(self.parts, self.rows))


@dataclass(frozen=True)
class Plan:
    """Attributes:
    compiled: what the compiler says.
    collectives, floor: of the compiled program; () and None where there is none, because it does not fit.
    """

    layout: Layout
    compiled: Compiled
    collectives: tuple[Collective, ...]
    floor: Floor | None

    @property
    def peak(self) -> int:
        return self.compiled.peak

    @property
    def fits(self) -> bool:
        """By the compiler's word, and by the machine's memory where the compiler does not look (GPUs). False, too, where the
        peak is not `known`."""
        return self.known and not self.compiled.limit and self.peak <= self.layout.machine.memory

    @property
    def known(self) -> bool:
        """Whether the compiler tells sizes."""
        return self.peak > 0

    @property
    def step_seconds(self) -> float:
        """The least time of a step; infinite where it does not fit."""
        return self.floor.seconds if self.floor and self.fits else math.inf


def lay_out(values: dict, machine: Machine, devices: list) -> Layout:
    """The run that `values` describe, over described devices. ConfigError where they do not go together."""
    about, recipe, notes = assumed.about(parse(values))
    parts = replicas.in_replicas(recipe, assemble(recipe, about, devices))
    states.fallbacks(parts.found, parts.rules)  # refuses what a run would refuse
    like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    return Layout(recipe, machine, parts, like, notes)


def make(layout: Layout, effort: str = "low") -> Plan:
    """Compiles the train step and reads its program."""
    parts = layout.parts
    compiled = compile_step(parts, layout.like, layout.rows, effort, ahead=True)
    if not compiled.text:
        return Plan(layout, compiled, (), None)
    mesh = parts.rules.mesh
    found = tuple(collectives.read(compiled.text, mesh))
    compiled = dataclasses.replace(compiled, text="")  # some hundred megabytes, of a large model
    return Plan(layout, compiled, found, floor_of(layout, compiled, found))


def floor_of(layout: Layout, compiled: Compiled, found: tuple[Collective, ...]) -> Floor:
    """The least time of a step whose program was compiled, and communicates `found`."""
    parts, recipe, machine = layout.parts, layout.recipe, layout.machine
    counted, compute = compiled.counted, recipe.precision.compute
    model = model_flops(layout)
    executed = max(compiled.flops, model or 0.0) / machine.devices
    bytes_moved = roofline.traffic(
        read_bytes(layout.like, compute),
        counted["gradients"],
        counted["optimizer"],
        counted["averages"],
        compiled.transient,
        passes=3 if recomputes(recipe.model) else 2,
        microbatches=recipe.train.microbatches,
    )
    return roofline.floor(
        machine,
        executed,
        bytes_moved,
        found,
        parts.rules.mesh,
        layout.rows * parts.units_per_row,
        model_flops=model and model / machine.devices,
        compute_dtype=compute,
        bubble=pipeline.bubble(
            layout.mesh[pipeline.STAGE], pipeline.wanted_pieces(parts.rules), parts.rules.config.rounds
        ),
    )


def model_flops(layout: Layout) -> float | None:
    """Of a whole step on all devices, recomputation not counted; None where the objective does not count."""
    per_row = layout.parts.objective.flops_per_row()
    return per_row * layout.rows if per_row else None


def recomputes(model: Any) -> bool:
    """Whether some stack of the model computes its forward pass twice."""
    return any(getattr(part, "remat", "none") in ("full", "offload") for _, part in sections(model))


def sections(model: Any, path: str = "model") -> list[tuple[str, Any]]:
    """(path, section) of a model's configuration and of those inside it."""
    inner = [(f"{path}.{field.name}", getattr(model, field.name)) for field in dataclasses.fields(model)]
    found = [sections(value, below) for below, value in inner if dataclasses.is_dataclass(value)]
    return [(path, model), *(each for part in found for each in part)]


def read_bytes(like: states.TrainState, compute: str) -> int:
    """Bytes of parameters that a device multiplies by in one pass: gathered over fsdp, in the dtype of computation."""
    total = 0
    for leaf in jax.tree.leaves((like.params, like.frozen)):
        used = {axis for entry in leaf.sharding.spec for axis in ((entry,) if isinstance(entry, str) else entry or ())}
        gathered = leaf.sharding.mesh.shape["fsdp"] if "fsdp" in used else 1
        floating = np.issubdtype(leaf.dtype, np.floating) or leaf.dtype == jax.numpy.bfloat16
        size = jax.numpy.dtype(compute).itemsize if floating else leaf.dtype.itemsize
        total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * gathered * size
    return total


def state_bytes(like: states.TrainState) -> int:
    """Of a checkpoint, uncompressed."""
    return bytes_of(as_tree(like))


def batch_bytes(layout: Layout) -> int:
    """Of the global batch."""
    return bytes_of(layout.parts.objective.batch_spec(layout.rows))


def hosts(layout: Layout) -> int:
    """Processes of the run, one for each host."""
    devices = layout.parts.rules.mesh.devices.flat
    return len({(getattr(device, "slice_index", 0), device.process_index) for device in devices})


def flops_record(plan: Plan) -> dict[str, Any]:
    """The FLOPs of a step, and by which convention."""
    layout = plan.layout
    parts, tokens = layout.parts, layout.rows * layout.parts.units_per_row
    causal = isinstance(layout.recipe.model, DecoderConfig)
    return {
        "convention": ("matmul_causal" if causal else "matmul")
        + ": matrix products of forward and backward, 6 a weight that multiplies and 12 a score"
        + (", scores that a causal mask hides left out" if causal else "")
        + "; recomputation not counted",
        "per_step": model_flops(layout),
        "per_row": parts.objective.flops_per_row(),
        "six_n_per_step": 6.0 * parts.parameters * tokens if parts.of_text else None,
        "executed_per_step": plan.compiled.flops,
    }


def warnings(plan: Plan) -> list[str]:
    """What the compiler could not do well, what of the program could not be counted, and what is another step than usual."""
    unsure, every = sum(not each.certain for each in plan.collectives), plan.layout.recipe.local_sgd.every
    whole = (f"resharded by keeping it whole: {line}" for line in plan.compiled.warnings)
    found = [*whole, *replicas.warnings(plan.layout.parts)]
    if unsure:
        found.append(f"{unsure} collectives stand in loops that do not say their trips: counted once")
    if every:
        found.append(
            f"config.local_sgd: this is an inner step; the outer one after each {every} of them is not counted"
        )
    return found


def record(plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it; sizes are bytes on one device unless a name says otherwise."""
    layout, compiled, machine = plan.layout, plan.compiled, plan.layout.machine
    parts = layout.parts
    return {
        "version": VERSION,
        "topology": machine.text,
        "devices": machine.devices,
        "slices": machine.slices,
        "mesh": layout.mesh,
        "batch": {
            "rows": layout.rows,
            "microbatches": layout.recipe.train.microbatches,
            "rows_per_device": parts.rows_per_device,
            "unit": parts.unit_name,
            "units_per_row": parts.units_per_row,
            "bytes": batch_bytes(layout),
            "host_bytes": -(-batch_bytes(layout) // hosts(layout)),
        },
        "assumed": list(layout.assumed),
        "parameters": parts.parameters,
        "memory": {
            **compiled.counted,
            "activations_and_temporaries": compiled.transient,
            "peak": compiled.peak,
            "device": machine.memory,
        },
        "fits": plan.fits if plan.known else None,
        "flops": flops_record(plan),
        "collectives": [
            {
                "kind": row.kind,
                "axes": list(row.axes),
                "bytes": row.bytes,
                "count": row.count,
                "largest": row.largest.size,
                "where": row.largest.where,
            }
            for row in collectives.table(plan.collectives)
        ],
        "floor": plan.floor and plan.floor.record(),
        "checkpoint_bytes": state_bytes(layout.like),
        "kept_whole": [
            *states.fallbacks(parts.found, parts.rules),
            *replicated.lines(layout.like, parts.found, parts.rules),
        ],
        "warnings": warnings(plan),
        "compile_seconds": round(compiled.seconds, 2),
        "config": plain(layout.recipe),
    }
