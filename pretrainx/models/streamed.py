"""Attention that never holds all scores: what stands in for cuDNN's where a GPU is only compiled for, without its libraries.

It keeps as much between forward and backward pass, and multiplies as much, as the fused kernel does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

BLOCK = 128  # queries whose scores are held at a time
PIECES = 8  # of causal queries; each looks only at keys up to its end, so that 9/16 of all scores are made


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask_of: Callable[[jax.Array], jax.Array | None],
    scale: float | None = None,
    causal: bool = False,
) -> jax.Array:
    """softmax(scale query key^T) value, as `kernels.attention` has it: query [B, T, H, K]; key, value [B, S, N, K].

    mask_of: what the queries at positions int32[T'] see, bool[T', S] or [B, 1, T', S]; None is everything. causal: the mask
    hides what comes after a query, and S = T. Of the scores of a block nothing is kept: the backward pass makes them again, as
    the fused kernel does.
    """
    length = query.shape[1]
    count = PIECES if causal and length % (PIECES * BLOCK) == 0 else 1
    ends = range(length // count, length + 1, length // count)
    piece = lambda end: _piece(
        query, key, value, mask_of, scale, end - length // count, end, end if causal else key.shape[1]
    )
    return jnp.concatenate([piece(end) for end in ends], axis=1) if count > 1 else piece(length)


def _piece(query, key, value, mask_of, scale, start: int, end: int, seen: int) -> jax.Array:
    """Of the queries from `start` to `end`, which look at the first `seen` keys."""
    query, key, value = query[:, start:end], key[:, :seen], value[:, :seen]
    rows, length, heads, size = query.shape
    shared, block = key.shape[2], math.gcd(length, BLOCK)
    scale = size**-0.5 if scale is None else scale

    @jax.checkpoint
    def of_block(part):
        queries, first = part
        grouped = queries.reshape(rows, block, shared, heads // shared, size)
        scores = jnp.einsum("btngk,bsnk->bngts", grouped, key, preferred_element_type=jnp.float32) * scale
        mask = mask_of(first + jnp.arange(block))
        if mask is not None:
            mask = (mask[:, :, None] if mask.ndim == 4 else mask)[..., :seen]
            scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min / 2)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        return jnp.einsum("bngts,bsnk->btngk", weights, value).reshape(queries.shape)

    parts = query.reshape(rows, length // block, block, heads, size).swapaxes(0, 1)
    found = jax.lax.map(of_block, (parts, jnp.arange(start, end, block)))
    return found.swapaxes(0, 1).reshape(query.shape)
