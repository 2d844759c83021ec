"""Arrays as one device sees them, and rows whose length is laid over devices: how the pieces of the others come by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from pretrainx.core.errors import ConfigError
from pretrainx.parallel.rules import in_force


def on_each_device(
    function: Callable,
    arrays: Mapping[str, jax.Array | None],
    names: Mapping[str, tuple[str | None, ...]],
    like: str,
    *more: tuple[Any, Any],
) -> jax.Array:
    """`function(*more, **arrays)` of the shards of one device; what it returns lies over devices as the array `like` does.

    arrays: None where there is none; names: their logical axes. more: (tree of arrays, tree of their partitions). Where the
    rules do not split an array, each device has the whole.
    """
    rules = in_force()
    arrays = {name: array for name, array in arrays.items() if array is not None}
    trees = [tree for tree, _ in more]
    if rules is None:
        return function(*trees, **arrays)
    specs = {name: rules.spec(names[name], array.shape) for name, array in arrays.items()}
    # Inside a stage of a pipeline the stages are apart already. All other axes are taken: a kernel of a TPU runs only where
    # none is left to the compiler.
    apart = set(jax.sharding.get_abstract_mesh().manual_axes)
    return jax.shard_map(
        lambda trees, arrays: function(*trees, **arrays),
        mesh=None if apart else rules.mesh,
        in_specs=([partition for _, partition in more], specs),
        out_specs=specs[like],
        axis_names=set(rules.mesh.axis_names) - apart,
        check_vma=False,
    )(trees, arrays)


def on_one_device(names: tuple[str | None, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one device's shard of an array with these logical axes."""
    rules = in_force()
    return shape if rules is None else rules.sharding(names, shape).shard_shape(shape)


def partition_of(made: Callable[[NamedSharding], Any], *parts: tuple[str, ...] | None) -> Any:
    """What `made` makes of the sharding that splits dimensions over these mesh axes; None without rules."""
    rules = in_force()
    return None if rules is None else made(NamedSharding(rules.mesh, PartitionSpec(*(part or None for part in parts))))


def over(*lengths: int) -> tuple[str, ...]:
    """The mesh axes that rows of each of these lengths are split over; none without rules, or where one does not divide.

    Raises ConfigError for that under strict rules.
    """
    rules = in_force()
    axes = () if rules is None else tuple(axis for axis in rules.axes("length") if rules.mesh.shape[axis] > 1)
    odd = [length for length in lengths if length % pieces(axes)]
    if odd and rules.strict:
        raise ConfigError(
            f"rows do not divide over the mesh axis {axes[0]!r}",
            where=f"config.mesh.{axes[0]}",
            why=f"the model's attention meets rows of {odd[0]} tokens, over {pieces(axes)} devices",
            do=f"--config.mesh.{axes[0]}={math.gcd(odd[0], pieces(axes))}, or rows of another length",
        )
    return () if odd else axes


def pieces(axes: tuple[str, ...]) -> int:
    """Into how many pieces these mesh axes split a row."""
    return math.prod(in_force().mesh.shape[axis] for axis in axes)


# What follows is called by a function of `on_each_device`, on its own shards.


def own(axes: tuple[str, ...]) -> jax.Array:
    """int32[]: the number of this device's piece."""
    return jax.lax.axis_index(axes)


def gathered(x: jax.Array | None, axes: tuple[str, ...]) -> jax.Array | None:
    """The whole row [B, S, ...] of a piece [B, S / pieces, ...]; its gradient is summed over devices and split again."""
    return None if x is None else jax.lax.all_gather(x, axes, axis=1, tiled=True)


def around(meet: Callable, carry: Any, block: Any, axes: tuple[str, ...], count: int, hops: int) -> Any:
    """The carry once `meet(carry, block, hop)` has seen this device's block and those of the `hops` devices before it.

    At hop j the block of device (own - j) mod `count` is here. The next is on its way while this one is met.
    """

    def each(state, hop):
        carry, block = state
        return (meet(carry, block, hop), moved(block, axes, count, 1)), None

    (carry, block), _ = jax.lax.scan(each, (carry, block), jnp.arange(hops))
    return meet(carry, block, jnp.int32(hops))


def moved(tree: Any, axes: tuple[str, ...], count: int, by: int) -> Any:
    """What the device `by` places before this one holds, in a ring of `count`."""
    to = [(number, (number + by) % count) for number in range(count)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, to), tree)


# Causal rows: the first pieces see little and the last see much. Cut into 2 P half pieces, device d of P takes number d and
# number 2 P - 1 - d, so that all have the same to do (as in Brandon et al. 2023 by stripes, and in LLaMA 3's halves: Dubey et
# al. 2024, section 3.3.2).


def balanced(x: jax.Array, axes: tuple[str, ...], count: int) -> tuple[jax.Array, jax.Array]:
    """The two half pieces of a balanced layout, the one of even number first, of neighbouring ones x [B, T / P, ...]."""
    even, odd = jnp.split(x, 2, axis=1)
    return tuple(
        jax.lax.ppermute(half, axes, [(number, _keeper(2 * number + parity, count)) for number in range(count)])
        for parity, half in enumerate((even, odd))
    )


def neighbouring(halves: tuple[jax.Array, jax.Array], axes: tuple[str, ...], count: int) -> jax.Array:
    """The inverse of `balanced`."""
    return jnp.concatenate(
        [
            jax.lax.ppermute(half, axes, [(_keeper(2 * number + parity, count), number) for number in range(count)])
            for parity, half in enumerate(halves)
        ],
        axis=1,
    )


def numbers_of_halves(device: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """int32[] each: which of the 2 P half pieces a device has in the balanced layout, the even one first."""
    first, last = device, 2 * count - 1 - device
    return jnp.where(device % 2 == 0, first, last), jnp.where(device % 2 == 0, last, first)


def _keeper(half: int, count: int) -> int:
    return half if half < count else 2 * count - 1 - half
