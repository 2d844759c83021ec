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


class Attention(nn.Module):
    """Causal self-attention with biases: x [B, T, D] -> [B, T, D]."""

    heads: int
    std: float
    output_std: float
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        inputs, outputs = (("embed", width),), (("heads", self.heads), ("head_dim", width // self.heads))
        query, key, value = (
            constrain(
                Linear(inputs, outputs, self.std, precision=self.precision, name=name)(x).swapaxes(1, 2),
                "batch", "act_heads", "length", None,
            )
            for name in ("query", "key", "value")
        )  # fmt: skip
        causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        y = attend(query, key, value, causal).swapaxes(1, 2)
        return Linear(outputs, inputs, self.output_std, precision=self.precision, name="out")(y)
