"""One number per leaf that notices any flipped bit, whatever the sharding.

Orbax has no checksum of array contents: a flipped bit is restored silently. The sum is over words times odd weights, modulo
2^32: integer addition is associative, so devices and reduction order do not matter, and an odd weight lets no single bit
vanish (an even one drops the top bits).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from pretrainx.core import paths


def checksum(leaf: jax.Array) -> jax.Array:
    """uint32[]: sum over words of word x (2 x flat index + 1), modulo 2^32. The bits are read, never converted."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    size = leaf.dtype.itemsize
    # 64-bit leaves become two words each, along a new last axis.
    words = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[size])
    words = words.astype(jnp.uint32)
    weights = jnp.ones((), jnp.uint32)
    for axis in range(words.ndim):
        # From one iota per axis, since a reshape to one axis would gather a sharded leaf.
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        weights = weights + index * jnp.uint32(2 * stride % 2**32)
    return jnp.sum(words * weights, dtype=jnp.uint32)


def diverged(sums: dict[str, jax.Array]) -> list[str]:
    """The leaves whose copies on this process's devices are not equal, from the `sums` of `examine`.

    Each device sums the copy that it holds: equal where nothing went wrong, since every copy came from the same numbers.
    """
    values = {path: [shard.data for shard in leaf_sum.addressable_shards] for path, leaf_sum in sums.items()}
    return [path for path, copies in jax.device_get(values).items() if len({int(copy) for copy in copies}) > 1]


@jax.jit
def examine(tree: paths.Tree) -> tuple[dict, jax.Array]:
    """({path: checksum}, whether every floating-point leaf is finite). Does not donate: the state is saved afterwards."""
    sums = {path: checksum(leaf) for path, leaf in paths.leaves(tree)}
    floats = [leaf for _, leaf in paths.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = jnp.array(True)
    for leaf in floats:
        finite &= jnp.isfinite(leaf).all()
    return sums, finite
