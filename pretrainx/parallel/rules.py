"""Sharding, said once: logical axis names -> mesh axes, and the one function that constrains activations.

The rules in force are bound through `jax.make_user_context`, whose value is part of every trace-cache key: two rule tables
in one process give two compiled programs. (Flax's own rules context is not in that key: the second table would silently
keep the first one's shardings.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrainx.core.errors import ConfigError, nearest
from pretrainx.parallel.sharding import ShardingConfig

_RULES = jax.make_user_context(None)

# Weights and activations have different names for their width: `batch` and a weight's `embed` both use fsdp, so an
# activation [batch, embed] would use it twice.
TABLE = (
    # Of a model with experts their axis divides rows like the others, but where it divides the experts themselves; a model
    # without is refused it. In the layers of a pipeline the axis of stages divides these, and rows everywhere else.
    ("batch", ("data", "fsdp", "expert", "stage")),
    ("expert_batch", ("data", "fsdp")),
    ("length", ("context",)),
    ("act_embed", ()),
    ("act_heads", ("tensor",)),
    ("act_mlp", ("tensor",)),
    ("act_vocab", ("tensor",)),
    ("act_experts", ("expert",)),
    ("layers", ("stage",)),
    ("embed", ("fsdp",)),
    ("norm", ("fsdp",)),
    ("heads", ("tensor",)),
    ("head_dim", ()),
    ("mlp", ("tensor",)),
    ("experts", ("expert",)),
    ("routes", ()),
    ("vocab", ("tensor",)),
    ("position", ("tensor",)),
    ("place", ("tensor",)),
    ("type", ()),
    ("bucket", ()),
    ("classes", ()),
    ("patch", ()),
    ("channels", ("fsdp",)),
    ("features", ("tensor",)),
    ("rank", ()),
    ("bottleneck", ()),
    ("prompt", ()),
)


@dataclass(frozen=True)
class Rules:
    """A mesh, the table that maps logical names to its axes, and the rest of what is said about sharding. Hashable; equal
    rules share compiled programs.

    strict: rows that their devices do not divide are an error, not whole on each: for a look ahead.
    """

    mesh: Mesh
    table: tuple[tuple[str, tuple[str, ...]], ...] = TABLE
    config: ShardingConfig = ShardingConfig()
    strict: bool = False

    def bound(self):
        """Context manager: `constrain` obeys these rules inside it, under jit, scan and remat alike."""
        return _RULES(self)

    def axes(self, name: str | None) -> tuple[str, ...]:
        """The mesh axes of one logical name; None is replicated."""
        if name is None:
            return ()
        for known, axes in self.table:
            if known == name:
                return axes
        raise ConfigError(
            f"unknown logical axis {name!r}",
            where="the sharding rules",
            why=nearest(name, [known for known, _ in self.table]),
            do="name an axis of the rule table, or add a row to it",
        )

    def without(self, axis: str) -> Rules:
        """The same rules where nothing is split over one axis of the mesh."""
        table = tuple((name, tuple(each for each in axes if each != axis)) for name, axes in self.table)
        return dataclasses.replace(self, table=table)

    def spec(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """The partition of an array with these logical axes; a dimension that does not divide is replicated.

        Raises ConfigError for an unknown name, and for a mesh axis used twice in one array.
        """
        if len(names) != len(shape):
            raise ValueError(f"{len(names)} axis names {names} for shape {shape}")
        parts, used = [], set()
        for name, size in zip(names, shape, strict=True):
            axes = tuple(axis for axis in self.axes(name) if self.mesh.shape[axis] > 1)
            if used & set(axes):
                raise ConfigError(
                    f"mesh axis {sorted(used & set(axes))[0]!r} is used twice in one array",
                    where=f"logical axes {names}",
                    why=", ".join(f"{each} -> {self.axes(each)}" for each in names if each),
                    do="give the activation's dimension its own name, or change the rule table",
                )
            used |= set(axes)
            if size % math.prod(self.mesh.shape[axis] for axis in axes):
                axes = ()
            parts.append(axes if len(axes) > 1 else axes[0] if axes else None)
        return PartitionSpec(*parts)

    def sharding(self, names, shape) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(tuple(names), tuple(shape)))

    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, shape) -> NamedSharding:
        """The sharding of an array whose leading axis is rows of a batch."""
        return self.sharding(("batch",) + (None,) * (len(shape) - 1), shape)

    def indivisible(self, names, shape) -> list[str]:
        """The logical names whose dimension a rule would split but cannot: that leaf falls back to replication."""
        found = []
        for name, size in zip(names, shape, strict=True):
            ways = math.prod(self.mesh.shape[axis] for axis in self.axes(name))
            if size % ways:
                found.append(f"{name}: {size} over {ways} ways")
        return found

    def batch_ways(self) -> int:
        """Over how many groups of devices the rows of a batch are split."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes("batch"))


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """`x` with its sharding pinned to the logical axes `names`, one per dimension; as it is where no rules are bound."""
    rules = _RULES.value
    return x if rules is None else _pinned(x, rules, rules.spec(names, x.shape))


def _pinned(x: jax.Array, rules: Rules, spec: PartitionSpec) -> jax.Array:
    """Within a `shard_map` over some of the axes the mesh says so of itself, and only that form of it is accepted."""
    here = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(x, NamedSharding(here if here.manual_axes else rules.mesh, spec))


def in_force() -> Rules | None:
    """The rules that are bound, or None."""
    return _RULES.value


def row_groups(rows: int) -> int:
    """Into how many groups the mesh in force lays so many rows of a batch; 1 where it keeps them together."""
    rules = _RULES.value
    ways = 1 if rules is None else rules.batch_ways()
    return 1 if rows % ways else ways


def within_group():
    """Context manager: the rules in force as they are inside one group of rows, which is not split again."""
    rules = _RULES.value
    if rules is None:
        return contextlib.nullcontext()
    table = tuple((name, () if name == "batch" else axes) for name, axes in rules.table)
    return dataclasses.replace(rules, table=table).bound()


def constrain_groups(x: jax.Array) -> jax.Array:
    """x [groups, ...] with each group where its rows are; the other dimensions lie as they come."""
    rules = _RULES.value
    if rules is None or x.shape[0] == 1:
        return x
    axes = tuple(axis for axis in rules.axes("batch") if rules.mesh.shape[axis] > 1)
    spec = PartitionSpec(axes, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1))
    return _pinned(x, rules, spec)


def device() -> tuple[jax.Device, int]:
    """(one device, their number) of the mesh in force, or of this process where none is."""
    rules = _RULES.value
    return (jax.local_devices()[0], 1) if rules is None else (rules.mesh.devices.flat[0], rules.mesh.size)


def ways(name: str) -> int:
    """Over how many devices the rules in force would split the logical axis `name`; 1 without rules."""
    rules = _RULES.value
    return 1 if rules is None else math.prod(rules.mesh.shape[axis] for axis in rules.axes(name))
