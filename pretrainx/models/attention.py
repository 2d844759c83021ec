"""Multi-head attention to one's own sequence and to another: rotary and relative positions, shared key heads, a cache."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from pretrainx.models import context
from pretrainx.models.layers import Linear, Precision, Spread, wide
from pretrainx.parallel.rules import constrain, constrain_groups, row_groups

if TYPE_CHECKING:
    from pretrainx.models.stack import StackConfig

Turns = tuple[jax.Array, jax.Array]


@struct.dataclass
class Cache:
    """Keys and values of the tokens decoded so far.

    Attributes:
      key, value: [L, B, S, N, K] for a stack of L layers, [B, S, N, K] inside one; rows from `filled` on are unused.
      filled: int32[], how many tokens are in it.
    """

    key: jax.Array
    value: jax.Array
    filled: jax.Array


def turns(positions: jax.Array, head_dim: int, base: float, dtype) -> Turns:
    """(cos, sin) of position x base^(-2j/K), j < K/2, each [..., 1, K/2] for positions [...].

    In float32 or wider: bfloat16 angles lose positions past a few hundred.
    """
    half = head_dim // 2
    wider = jnp.promote_types(dtype, jnp.float32)
    frequencies = base ** (-jnp.arange(half, dtype=wider) / half)
    angles = positions[..., None, None].astype(wider) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, turns: Turns) -> jax.Array:
    """Rotary positions (Su et al. 2021) in the half-rotation form: pairs (j, j + K/2) of x [B, T, H, K] are turned."""
    cos, sin = turns
    first, second = jnp.split(wide(x), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def unit_rms(x: jax.Array) -> jax.Array:
    """x / rms(x) over the last axis, without a scale: the QK-norm of small modern recipes."""
    y = wide(x)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def to_heads(module: nn.Module, heads: int, std: float, name: str | None = None, bias: bool = True) -> Linear:
    """The projection of an attention's `module` to so many heads: [B, T, D] -> [B, T, H, K]."""
    config = module.config
    outputs = (("heads", heads), ("head_dim", config.head_size))
    bias, law = bias and config.bias, module.spread.law
    return Linear((("embed", config.width),), outputs, std, bias, module.precision, law=law, name=name)


def from_heads(module: nn.Module, name: str | None = None) -> Linear:
    """[B, T, H, K] -> [B, T, D]"""
    config = module.config
    inputs = (("heads", config.heads), ("head_dim", config.head_size))
    outputs, spread = (("embed", config.width),), module.spread
    return Linear(inputs, outputs, spread.out, config.bias, module.precision, law=spread.law, name=name)


def by_head(x: jax.Array) -> jax.Array:
    """x [B, T, H, K] laid over devices by head."""
    return constrain(x, "batch", "length", "act_heads", None)


def buckets_of(distance: jax.Array, causal: bool, buckets: int, farthest: int) -> jax.Array:
    """The bucket int32[...] of a key's position minus the query's (Raffel et al. 2020, section 2.1): half of them for single
    distances, the rest growing with the logarithm up to `farthest`. Not causal: one half of all for keys that follow.

    By a table made on the host: some distances lie where a bucket begins, and devices round logarithms differently.
    """
    first = 0
    if not causal:
        buckets //= 2
        first = jnp.where(distance > 0, buckets, 0)
        distance = -jnp.abs(distance)
    exact = buckets // 2
    back = np.arange(farthest + 1)
    ratio = np.log(np.maximum(back, exact) / exact) / math.log(farthest / exact)
    far = np.minimum(exact + (ratio * (buckets - exact)).astype(np.int32), buckets - 1)
    table = np.where(back < exact, back, far).astype(np.int32)
    return first + jnp.asarray(table)[jnp.clip(-distance, 0, farthest)]


class RelativeBias(nn.Module):
    """What a stack adds to its attention scores for the distance of key and query, a number per bucket and head."""

    config: StackConfig
    causal: bool
    precision: Precision

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array, rows: int) -> jax.Array:
        """float32[G, H, T, S] of positions int32[T] and int32[S], G groups of the `rows` of a batch.

        One copy for each group of rows that lie together: its gradient is a sum over rows, which would else be a collective in
        every layer.
        """
        config = self.config
        std = config.tuned_width**-0.5 if config.initial == "fan_in" else config.initial_std
        initial = nn.with_logical_partitioning(nn.initializers.normal(std), ("bucket", "heads"))
        table = self.param("table", initial, (config.buckets, config.heads), self.precision.params)
        places = buckets_of(keys[None, :] - queries[:, None], self.causal, config.buckets, config.bucket_distance)
        # Wide before the lookup: its gradient is a sum over all pairs in a bucket, which bfloat16 cannot add up.
        bias = jnp.moveaxis(wide(table)[places], -1, 0)
        return constrain_groups(jnp.broadcast_to(bias, (row_groups(rows), *bias.shape)))


class Attention(nn.Module):
    """Self-attention: x [B, T, D] -> ([B, T, D], cache)."""

    config: StackConfig
    spread: Spread
    causal: bool
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        turns: Turns | None = None,
        segments: jax.Array | None = None,
        cache: Cache | None = None,
        seen: jax.Array | None = None,
        bias: jax.Array | None = None,
        key_segments: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """turns: rotary angles of the positions; cache: of this layer, x then follows it; the rest as kernels have it."""
        config = self.config
        query = by_head(to_heads(self, config.heads, self.spread.query, "query")(x))
        key = by_head(to_heads(self, config.shared_heads, self.spread.key, "key", config.key_bias)(x))
        value = by_head(to_heads(self, config.shared_heads, self.spread.key, "value")(x))
        if config.qk_norm:
            query, key = unit_rms(query), unit_rms(key)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        filled = None
        if cache is not None:
            filled, put = cache.filled, jax.lax.dynamic_update_slice_in_dim
            key, value = put(cache.key, key, filled, axis=1), put(cache.value, value, filled, axis=1)
            cache = Cache(key, value, filled + x.shape[1])
        y = context.attention(
            query,
            key,
            value,
            causal=self.causal,
            window=config.window,
            segments=segments,
            key_segments=key_segments,
            seen=seen,
            bias=bias,
            scale=config.score_scale,
            filled=filled,
            kernel=config.attention,
        )
        return from_heads(self, "out")(y), cache


class CrossAttention(nn.Module):
    """Attention of x [B, T, D] to another sequence: `read` makes keys and values of it, the call looks at them."""

    config: StackConfig
    spread: Spread
    precision: Precision

    def setup(self):
        config = self.config
        self.query = to_heads(self, config.heads, self.spread.query)
        self.key = to_heads(self, config.shared_heads, self.spread.key)
        self.value = to_heads(self, config.shared_heads, self.spread.key)
        self.out = from_heads(self)

    def read(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(keys, values) [B, S, N, K] of memory [B, S, D]."""
        key = by_head(self.key(memory))
        return unit_rms(key) if self.config.qk_norm else key, by_head(self.value(memory))

    def __call__(self, x: jax.Array, memory: tuple[jax.Array, jax.Array], segments: jax.Array | None) -> jax.Array:
        """segments: int32[B, S], 1 where the memory is real and 0 where it is padding; None: all of it is."""
        query = by_head(self.query(x))
        y = context.attention(
            unit_rms(query) if self.config.qk_norm else query,
            *memory,
            causal=False,
            segments=None if segments is None else jnp.ones(x.shape[:2], segments.dtype),
            key_segments=segments,
            scale=self.config.score_scale,
            kernel=self.config.attention,
        )
        return self.out(y)
