"""In which dtype an optimizer keeps its moments: all that lies like a parameter in its state.

In bfloat16 a moment is rounded at random, up or down so that its mean is right (stochastic rounding: Gupta et al. 2015,
section 3.2). Rounded to the nearest it would stall: of a running average that keeps b, 1 - b of the difference is added, and
below 2^-9 of the average that is rounded away: Adam's second moment with b2 = 0.999 climbs to a half of what it should be.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pretrainx.core import paths

MOMENTS = ("params", "float32", "bfloat16")


def owners(state: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    """A tree like `state`: for each leaf the path of the parameter whose path its own ends in and whose shape it has, or "".

    Counts belong to none, nor do rows and columns of a factored moment: they are small.
    """

    def owner(path, leaf):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        ends = ("/".join(names[i:]) for i in range(len(names)))
        end = next((end for end in ends if end in shapes), "")
        return end if end and leaf.shape == shapes[end] else ""

    return jax.tree_util.tree_map_with_path(owner, state)


def stored(chain: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """`chain`, its moments kept in `dtype` and computed in float32 or wider; its state is a dict whose "rate" counts updates.

    What is drawn for the rounding goes by the number of the update and the place in the state alone.
    """
    if dtype == "params":
        return chain

    def init(params):
        state = chain.init(params)
        shapes = {path: leaf.shape for path, leaf in paths.leaves(params)}
        return jax.tree.map(lambda leaf, owner: leaf.astype(dtype) if owner else leaf, state, owners(state, shapes))

    def update(updates, state, params):
        shapes = {path: leaf.shape for path, leaf in paths.leaves(params)}
        belongs = owners(state, shapes)
        wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
        updates = jax.tree.map(wide, updates)
        as_wide = {path: leaf.dtype for path, leaf in paths.leaves(updates)}
        opened = jax.tree.map(lambda leaf, owner: leaf.astype(as_wide[owner]) if owner else leaf, state, belongs)
        updates, new = chain.update(updates, opened, params)
        key = jax.random.fold_in(jax.random.key(0), state["rate"].count)

        def closed(path, leaf, owner):
            if not owner:
                return leaf
            if dtype != "bfloat16":
                return leaf.astype(dtype)
            place = zlib.crc32(jax.tree_util.keystr(path).encode())
            return rounded_at_random(jax.random.fold_in(key, place), leaf)

        return updates, jax.tree_util.tree_map_with_path(closed, new, belongs)

    return optax.GradientTransformation(init, update)


def rounded_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
    """x in bfloat16: of its two neighbours there the nearer with the larger chance, so that the expectation is x.

    Sixteen random bits are added below the sixteen that are kept. Zero stays zero, and what is not finite stays so.
    """
    narrow = x.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(narrow, jnp.uint32)
    moved = (bits + (_drawn(key, x.shape) >> 16)) & jnp.uint32(0xFFFF0000)
    moved = jax.lax.bitcast_convert_type(moved, jnp.float32)
    return jnp.where(jnp.isfinite(narrow), moved, narrow).astype(jnp.bfloat16)


def _drawn(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint32 of a shape: a hash of the place and two random words. Rounding needs no better, and jax.random's own numbers took
    most of an update's time on a CPU; it is cut over devices as any array is."""
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mixed(_mixed(place + first) ^ second)


def _mixed(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3 (Appleby 2011): each bit of uint32 x changes each of the result with chance a half."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
