"""Multi-head causal self-attention, with rotary positions, shared key heads and a cache for decoding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from pretrainx.models import kernels
from pretrainx.models.layers import Linear, Precision, wide
from pretrainx.parallel.rules import constrain

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


class Attention(nn.Module):
    """Causal self-attention: x [B, T, D] -> ([B, T, D], cache).

    Attributes:
      heads, shared: query heads H, and heads N of keys and values.
      window: how far back a token sees, itself included; 0 is everything.
      qk_norm: queries and keys are normalised per head first.
      kernel: one of kernels.ATTENTION.
    """

    heads: int
    shared: int
    head_dim: int
    std: float
    output_std: float
    window: int
    qk_norm: bool
    bias: bool
    output_bias: bool
    kernel: str
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        turns: Turns | None = None,
        segments: jax.Array | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """turns: rotary angles of the positions; segments: int32[B, T]; cache: of this layer, x is then what follows it."""
        inputs = (("embed", x.shape[-1]),)
        outputs = lambda heads: (("heads", heads), ("head_dim", self.head_dim))
        linear = lambda heads, name: Linear(inputs, outputs(heads), self.std, self.bias, self.precision, name=name)
        split = lambda heads, name: constrain(linear(heads, name)(x), "batch", "length", "act_heads", None)
        query, key, value = split(self.heads, "query"), split(self.shared, "key"), split(self.shared, "value")
        if self.qk_norm:
            query, key = unit_rms(query), unit_rms(key)
        if turns is not None:
            query, key = rotate(query, turns), rotate(key, turns)
        filled = None
        if cache is not None:
            filled, put = cache.filled, jax.lax.dynamic_update_slice_in_dim
            key, value = put(cache.key, key, filled, axis=1), put(cache.value, value, filled, axis=1)
            cache = Cache(key, value, filled + x.shape[1])
        y = kernels.attention(
            query, key, value, window=self.window, segments=segments, filled=filled, kernel=self.kernel
        )
        out = Linear(outputs(self.heads), inputs, self.output_std, self.output_bias, self.precision, name="out")
        return out(y), cache
