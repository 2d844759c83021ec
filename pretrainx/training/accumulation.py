"""Rows to microbatches and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.records import Outcome, Sum
from pretrainx.parallel.rules import constrain


def strided(tree: Any, count: int) -> Any:
    """[B, ...] -> [count, B // count, ...]: microbatch j holds rows j, j + count, ...

    Contiguous blocks of a sharded batch would sit on a few devices; strided ones stay where they are.
    """

    def divide(x):
        x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
        return constrain(x, None, "batch", *[None] * (x.ndim - 2))

    return jax.tree.map(divide, tree)


def row_order(tree: Any) -> Any:
    """The inverse of `strided`: [count, B // count, ...] -> [B, ...]."""

    def join(x):
        x = x.swapaxes(0, 1)
        x = x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
        return constrain(x, "batch", *[None] * (x.ndim - 1))

    return jax.tree.map(join, tree)


def gathered(stacked: Outcome) -> Outcome:
    """One outcome for the batch from those of its microbatches, stacked along a leading axis."""
    added = lambda tree: jax.tree.map(lambda x: x.sum(0), tree)
    is_sum = lambda leaf: isinstance(leaf, Sum)
    collect = lambda leaf: added(leaf) if is_sum(leaf) else row_order(leaf)
    return Outcome(
        totals=added(stacked.totals),
        per_row=row_order(stacked.per_row),
        # Exact for running means: m * old + (1 - m) * new is linear in what the microbatches saw.
        extras=jax.tree.map(lambda x: x.mean(0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[-1], stacked.extras),
        collected=jax.tree.map(collect, stacked.collected, is_leaf=is_sum),
        metrics=added(stacked.metrics),
    )
