"""Block-wise masks of pictures (Bao et al. 2022, algorithm 1): rectangles of patches, until a share of the grid is hidden."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

ATTEMPTS = 10  # to place one rectangle; if all of them fail, the mask stays as it is
# Attempts in all. A 14 x 14 grid of which 75 are hidden takes 11 on average, and more than 40 in less than one mask of 50,000.
DRAWS = 64


def block_mask(key: jax.Array, grid: int, count: int, min_block: int = 16, min_aspect: float = 0.3) -> jax.Array:
    """bool[grid, grid], True where a patch is hidden: `count` of them at most, and a few less in a third of the masks.

    While r > 0 patches are still to be hidden: area ~ U(min_block, r), log(aspect) ~ U(log(min_aspect), -log(min_aspect)),
    height = round(sqrt(area x aspect)), width = round(sqrt(area / aspect)), both below `grid`, placed uniformly; accepted where
    it hides between 1 and r patches that were not hidden yet. With r < min_block the interval is reversed, as in the authors'
    program: the area is then between r and min_block. (Clamped to r, nearly all masks would have the full count.)

    The number of attempts is fixed, so that rows of a batch that lie on several devices need not wait for each other.
    """
    slant = -math.log(min_aspect)
    places = jnp.arange(grid)

    def attempt(state, draw):
        mask, failures = state
        left = count - mask.sum(dtype=jnp.int32)
        area = min_block + (left - min_block) * draw[0]
        aspect = jnp.exp(slant * (2 * draw[1] - 1))
        height = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
        width = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
        top, first = _place(draw[2], grid - height), _place(draw[3], grid - width)
        rows = (places >= top) & (places < top + height)
        columns = (places >= first) & (places < first + width)
        block = rows[:, None] & columns[None, :]
        new = (block & ~mask).sum(dtype=jnp.int32)
        accepted = (height < grid) & (width < grid) & (new >= 1) & (new <= left) & (failures < ATTEMPTS)
        failures = jnp.where(accepted, 0, failures + 1)
        return (mask | (block & accepted), failures), None

    draws = jax.random.uniform(key, (DRAWS, 4), jnp.float32)
    start = jnp.zeros((grid, grid), jnp.bool_), jnp.int32(0)
    (mask, _), _ = jax.lax.scan(attempt, start, draws)
    return mask


def _place(draw: jax.Array, spare: jax.Array) -> jax.Array:
    """int32, uniform over 0 .. spare; a draw of float32 close below 1 may be rounded up to spare + 1."""
    return jnp.minimum(jnp.floor(draw * (spare + 1)).astype(jnp.int32), spare)
