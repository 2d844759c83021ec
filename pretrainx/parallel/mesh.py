"""The one place that builds device meshes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from pretrainx.core.errors import ConfigError


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes. Size 1 is free; one axis may be -1 and takes the devices that are left."""

    data: int = field(default=-1, metadata={"min": -1})
    fsdp: int = field(default=1, metadata={"min": -1})
    tensor: int = field(default=1, metadata={"min": -1})
    context: int = field(default=1, metadata={"min": -1})
    expert: int = field(default=1, metadata={"min": -1})
    stage: int = field(default=1, metadata={"min": -1})


AXES = tuple(axis.name for axis in fields(MeshConfig))


def sizes(config: MeshConfig, device_count: int) -> tuple[int, ...]:
    """The axis sizes with -1 filled in; ConfigError when they do not make up the devices."""
    wanted = [getattr(config, axis) for axis in AXES]
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, wanted, strict=True) if size != 1) or "all 1"
    if 0 in wanted or wanted.count(-1) > 1:
        raise ConfigError(
            "the mesh cannot be filled",
            where="config.mesh",
            why=f"{text}: sizes are positive, and at most one axis may be -1",
            do="set all axes but one to positive numbers",
        )
    known = math.prod(size for size in wanted if size != -1)
    filled = [device_count // known if size == -1 else size for size in wanted]
    if math.prod(filled) != device_count:
        raise ConfigError(
            "the mesh does not fit the devices",
            where="config.mesh",
            why=f"{text}, but there are {device_count} devices",
            do="choose sizes whose product is the number of devices, for example --config.mesh.data=-1",
        )
    return tuple(filled)


def make_mesh(config: MeshConfig = MeshConfig(), devices=None) -> Mesh:
    """A mesh over `devices` (default: all). Axes are Auto: explicit ones turn constraints into assertions.

    On TPUs neighbours along an axis are neighbours on the torus. Of several slices the outer axes span the slow network between
    them: data, then stage, then fsdp, see `across`. ConfigError where these cannot.
    """
    devices = list(devices if devices is not None else jax.devices())
    shape = sizes(config, len(devices))
    auto = (AxisType.Auto,) * len(AXES)
    if devices[0].platform != "tpu":
        return jax.make_mesh(shape, AXES, axis_types=auto, devices=devices)
    slices = len({getattr(device, "slice_index", None) for device in devices})
    if slices == 1:
        placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        outer = across(shape, slices)
        inner = tuple(size // parts for size, parts in zip(shape, outer, strict=True))
        placed = mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=auto)


# Axes that may span slices, the one that does so first of all: data sums gradients and stage passes activations on; fsdp is the
# last resort, its gathers come in each microbatch.
OUTER = ("data", "stage", "fsdp")


def across(shape: tuple[int, ...], slices: int) -> tuple[int, ...]:
    """Into how many parts each axis is cut between slices: the first of OUTER as far as it divides, then the next."""
    parts, left = dict.fromkeys(AXES, 1), slices
    for axis in OUTER:
        parts[axis] = math.gcd(shape[AXES.index(axis)], left)
        left //= parts[axis]
    if left > 1:
        raise ConfigError(
            "the mesh cannot be laid over the slices",
            where="config.mesh",
            why=f"{slices} slices, but data x stage x fsdp leave {left} of them: other axes need the links inside a slice",
            do=f"--config.mesh.data={slices} or a multiple",
        )
    return tuple(parts.values())
