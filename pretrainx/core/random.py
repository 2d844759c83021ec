"""Random streams. Every key is a function of (seed, stream, step, row): nothing is stored, nothing drifts."""

from __future__ import annotations

import jax

# One number per purpose; they are part of every run's mathematics and never change.
OBSERVE, ENCODE, ADVANCE, INIT, START, EVALUATE = range(6)


def stream(seed: int, purpose: int, step=0) -> jax.Array:
    """key[] of one purpose at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), step)


def per_row(key: jax.Array, rows: int) -> jax.Array:
    """key[rows]: row r's key depends on r alone, not on how many rows there are."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jax.numpy.arange(rows))
