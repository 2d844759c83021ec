"""Splash attention, the TPU's fused kernel that skips blocks of scores which a mask hides (JAX's Pallas library)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.parallel import sequence
from pretrainx.parallel.rules import device

# Tokens are laid out in lanes of so many; larger blocks keep the matrix unit busy, these fit the memory beside it.
LANES, BLOCKS = 128, (512, 256, 128)
HEAD_DIMS = (64, 128, 256)


def fits(dtype, head_dim: int, length: int) -> bool:
    """Whether the kernel takes heads of this width and dtype, and pieces of rows of this many tokens."""
    return jnp.dtype(dtype) in (jnp.bfloat16, jnp.float32) and head_dim in HEAD_DIMS and length % LANES == 0


def refusal(why: str) -> ConfigError:
    return ConfigError(
        "splash attention does not take this model",
        where="config.model.attention",
        why=f"{why}; it takes heads of {', '.join(map(str, HEAD_DIMS))} in bfloat16 or float32, rows in multiples of {LANES} "
        "tokens on each device, segments and windows, but neither biases nor prefixes",
        do="--config.model.attention=auto",
    )


def attention(
    arrays: Mapping[str, jax.Array | None],
    names: Mapping[str, tuple[str | None, ...]],
    axes: tuple[str, ...],
    keys_over: tuple[str, ...],
    *,
    causal: bool,
    window: int,
    scale: float | None,
) -> jax.Array:
    """`kernels.attention` of the arrays "query", "key", "value", "segments" and "key_segments", which lie over devices by
    their logical `names`: with queries split over the mesh axes `axes`, and keys, that are collected, over `keys_over`.

    A CPU interprets the kernel, which is for tests. ConfigError where it does not fit.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas  # half a second, which only a TPU needs

    query, key, count = arrays["query"], arrays["key"], sequence.pieces(axes)
    extra = [name for name in ("seen", "bias") if arrays.get(name) is not None]
    if extra or not fits(query.dtype, query.shape[3], math.gcd(query.shape[1] // count, key.shape[1])):
        raise refusal(
            f"there is an array {extra[0]!r}, which it does not know"
            if extra
            else f"heads of {query.shape[3]} in {query.dtype.name}, {query.shape[1] // count} queries on a device"
        )
    shape, scale = (query.shape[1], key.shape[1]), query.shape[3] ** -0.5 if scale is None else scale
    blocks = _blocks(shape[0] // count, shape[1])
    # As many masks as a device has heads, all the same: they are stored once.
    heads = sequence.on_one_device(names["query"], query.shape)[2]
    if not causal:  # of every piece of the queries alike
        shape, count, axes = (shape[0] // count, shape[1]), 1, ()
    if window and causal:
        mask = pallas.LocalMask(shape, (window - 1, 0), 0)
    else:
        mask = pallas.CausalMask(shape) if causal else pallas.FullMask(shape)
    kernel = pallas.make_splash_mha(
        pallas.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=count,
        block_sizes=pallas.BlockSizes(**blocks),
        interpret=device()[0].platform == "cpu",
    )
    kernel = kernel, sequence.partition_of(kernel.manual_sharding_spec, None, axes)

    def of_piece(kernel, query, key, value, segments=None, key_segments=None):
        collected = (lambda x: sequence.gathered(x, keys_over)) if keys_over else lambda x: x
        first = lambda x: x.swapaxes(1, 2)
        ids = None if segments is None else pallas.SegmentIds(segments, collected(key_segments))
        scaled = (scale * query.astype(jnp.float32)).astype(query.dtype)
        found = jax.vmap(kernel)(first(scaled), first(collected(key)), first(collected(value)), ids)
        return first(found)

    taken = {name: arrays.get(name) for name in ("query", "key", "value", "segments", "key_segments")}
    return sequence.on_each_device(of_piece, taken, names, "query", kernel)


def _blocks(length: int, sources: int) -> dict[str, int]:
    """Sizes of blocks of queries and of keys, forward and backward."""
    largest = lambda size: next(block for block in BLOCKS if size % block == 0)
    of_keys = ("block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq")
    of_queries = ("block_q", "block_q_dkv", "block_q_dq")
    return dict.fromkeys(of_queries, largest(length)) | dict.fromkeys(of_keys, largest(sources))
