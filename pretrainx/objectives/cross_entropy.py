"""Token cross-entropy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pretrainx.core.records import Outcome
from pretrainx.models.layers import wide


def token_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-log softmax(logits)[target] in nats: float32 or wider [B, T] of logits [B, T, V] and targets int32[B, T]."""
    logits = wide(logits)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def outcome(term: str, nll: jax.Array, weights: jax.Array) -> Outcome:
    """The weighted sum of nll [B, T] as one term. `where`, since 0 times a NaN is NaN."""
    rows = jnp.where(weights > 0, weights * nll, 0).sum(axis=tuple(range(1, nll.ndim)))
    return Outcome(totals={term: rows.sum()}, per_row={term: jax.lax.stop_gradient(rows)})
