"""Multi-head self-attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.layers import Linear, Precision, wide
from pretrainx.parallel.rules import constrain


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(query key^T / sqrt(K)) value.

    Args:
      query, key, value: [B, H, T, K], heads first.
      mask: bool[T, S], True where attention is allowed.
    Returns [B, H, T, K]. Scores and softmax are float32 or wider (`jax.nn.dot_product_attention` computes the softmax in
    float32 even for float64 inputs, which would hide errors below 1e-7 from the equality tests).
    """
    wider = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bhtk,bhsk->bhts", query, key, preferred_element_type=wider) * query.shape[-1] ** -0.5
    # Finite: a row with nothing allowed is uniform, not NaN.
    scores = jnp.where(mask, scores, jnp.finfo(wider).min / 2)
    weights = jax.nn.softmax(wide(scores), axis=-1).astype(value.dtype)
    return jnp.einsum("bhts,bhsk->bhtk", weights, value)


def rotate(x: jax.Array, theta: float = 10_000.0) -> jax.Array:
    """Rotary positions (Su et al. 2021) in the half-rotation form: x [B, H, T, K], position t turns pair (j, j + K/2) by
    t * theta^(-2j/K). Angles in float32 or wider: bfloat16 ones lose positions past a few hundred."""
    half = x.shape[-1] // 2
    wider = jnp.promote_types(x.dtype, jnp.float32)
    frequencies = theta ** (-jnp.arange(half, dtype=wider) / half)
    angles = jnp.arange(x.shape[2], dtype=wider)[:, None] * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(wide(x), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def unit_rms(x: jax.Array) -> jax.Array:
    """x / rms(x) over the last axis, without a scale: the QK-norm of small modern recipes."""
    y = wide(x)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype)


class Attention(nn.Module):
    """Causal self-attention: x [B, T, D] -> [B, T, D].

    Attributes:
      rotary: queries and keys are turned by their positions.
      qk_norm: queries and keys are normalised per head first.
    """

    heads: int
    std: float
    output_std: float
    rotary: bool
    qk_norm: bool
    bias: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        inputs, outputs = (("embed", width),), (("heads", self.heads), ("head_dim", width // self.heads))
        linear = lambda *sides, std, name: Linear(*sides, std, self.bias, self.precision, name=name)
        heads_first = lambda y: constrain(y.swapaxes(1, 2), "batch", "act_heads", "length", None)
        query, key, value = (
            heads_first(linear(inputs, outputs, std=self.std, name=name)(x)) for name in ("query", "key", "value")
        )
        if self.qk_norm:
            query, key = unit_rms(query), unit_rms(key)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        y = attend(query, key, value, causal).swapaxes(1, 2)
        return linear(outputs, inputs, std=self.output_std, name="out")(y)
