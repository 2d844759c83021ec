"""Normalisation by the statistics of a batch (Ioffe & Szegedy 2015)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.layers import Precision, wide


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, over all axes of x [B, ..., C] but the last.

    In training the statistics are those of the rows in the call, in inference running averages of them: the variables
    "mean" and "var" of the collection "batch_stats", which moves to momentum * old + (1 - momentum) * new. Under jit the rows
    of a call are those of all devices; where a batch is cut into microbatches they are those of the microbatch. Statistics are
    float32 or wider. The variance that divides is the biased one, sum / n; the running average is of sum / (n - 1).

    Attributes:
      scale, bias: whether there are these factors and summands, one per channel.
      group: rows that share statistics in training, neighbours of each other; 0 is all. The running averages are of the
        groups' means. Where rows are laid over devices group by group, these are the statistics of a device.
      zero: the factors start at 0, not at 1.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = True
    group: int = 0
    precision: Precision = Precision()
    zero: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x in its dtype. valid: bool[B], rows that count in the statistics; None is all. ValueError where groups do not
        divide the rows."""
        boxed, shape = nn.with_logical_partitioning, (x.shape[-1],)
        wider = jnp.promote_types(self.precision.params, jnp.float32)
        mean = self.variable("batch_stats", "mean", boxed(jnp.zeros, ("norm",)), shape, wider)
        var = self.variable("batch_stats", "var", boxed(jnp.ones, ("norm",)), shape, wider)
        learned = lambda name, start: self.param(name, boxed(start, ("norm",)), shape, self.precision.params)
        scale = learned("scale", nn.initializers.constant(0.0 if self.zero else 1.0)) if self.scale else 1.0
        bias = learned("bias", nn.initializers.zeros) if self.bias else 0.0
        y = wide(x)
        if not train or self.is_initializing():
            return ((y - mean.value) * (jax.lax.rsqrt(var.value + self.epsilon) * scale) + bias).astype(x.dtype)
        y, weights = self._grouped(y, valid)
        axes = tuple(range(1, y.ndim - 1))
        count = jnp.broadcast_to(weights, (*y.shape[:-1], 1)).sum(axes, keepdims=True)
        average = lambda values: jnp.where(weights > 0, values, 0).sum(axes, keepdims=True) / jnp.maximum(count, 1)
        middle = average(y)
        y = y - middle
        spread = average(y * y)
        self._move(mean, middle, count)
        self._move(var, spread * count / jnp.maximum(count - 1, 1), count)
        y = y * (jax.lax.rsqrt(spread + self.epsilon) * scale) + bias
        return y.reshape(x.shape).astype(x.dtype)

    def _grouped(self, x: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """(x [groups, rows of each, ..., C], weights of the rows, with as many axes)"""
        rows = x.shape[0]
        size = self.group or rows
        if rows % size:
            raise ValueError(f"{rows} rows are no whole groups of {size}")
        weights = jnp.ones(rows, x.dtype) if valid is None else valid.astype(x.dtype)
        weights = weights.reshape(-1, size, *[1] * (x.ndim - 1))
        return x.reshape(-1, size, *x.shape[1:]), weights

    def _move(self, average: nn.Variable, new: jax.Array, count: jax.Array) -> None:
        """Moves a running average to the mean over groups [G, 1, ..., C] that have rows, count [G, 1, ..., 1] of them; where
        none has, it stays."""
        filled = (count > 0).astype(new.dtype)
        mean = ((new * filled).sum(0) / jnp.maximum(filled.sum(0), 1)).reshape(-1)
        old = average.value
        moved = self.momentum * old + (1 - self.momentum) * mean
        average.value = jnp.where(filled.sum() > 0, moved, old).astype(old.dtype)
