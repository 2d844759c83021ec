"""Schedules: frozen, callable records of the step. They are compared and hashed by their numbers, so they may be static."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp


def _real(step):
    """The step as float32, or float64 where that is on: int32 / int alone would be float32 always."""
    return jnp.asarray(step, float)


@dataclass(frozen=True)
class Ramp:
    """Linear from `start` at step 0 to `end` at step `steps`, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step):
        return self.start + (self.end - self.start) * jnp.clip(_real(step) / max(self.steps, 1), 0.0, 1.0)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from `start` at step 0 to `end` at step `steps`, then `end` (momentum of MoCo v3, BYOL, DINO)."""

    start: float
    end: float
    steps: int

    def __call__(self, step):
        progress = jnp.clip(_real(step) / max(self.steps, 1), 0.0, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up from `peak / warmup` to `peak` over `warmup` steps, then a cosine to `floor * peak` at step `steps`."""

    peak: float
    warmup: int
    steps: int
    floor: float = 0.1

    def __call__(self, step):
        # (step + 1): the first update is not spent on a rate of zero.
        warm = self.peak * jnp.minimum(1.0, (_real(step) + 1) / max(self.warmup, 1))
        decay = Cosine(1.0, self.floor, max(self.steps - self.warmup, 1))(step - self.warmup)
        return warm * jnp.where(step < self.warmup, 1.0, decay)
