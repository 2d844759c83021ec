"""Vectors of length one."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pretrainx.models.layers import wide

EPSILON = 1e-12


def unit(z: jax.Array, axis: int = -1) -> jax.Array:
    """z / max(|z|, 1e-12) along an axis, in float32 or wider. What is shorter has no direction, and no gradient: it would be
    1e12 times the others'."""
    z = wide(z)
    squares = (z * z).sum(axis, keepdims=True)
    long = squares > EPSILON**2
    return jnp.where(long, z / jnp.sqrt(jnp.where(long, squares, 1)), jax.lax.stop_gradient(z) / EPSILON)
