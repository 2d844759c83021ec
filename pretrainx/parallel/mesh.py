"""The one place that builds device meshes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import jax
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
    """A mesh over `devices` (default: all). Axes are Auto: explicit ones turn constraints into assertions."""
    devices = list(devices if devices is not None else jax.devices())
    shape = sizes(config, len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
