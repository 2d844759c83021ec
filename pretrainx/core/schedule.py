"""Schedules: frozen, callable records of the step. They are compared and hashed by their numbers, so they may be static."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp


def _real(step):
    """The step as float32, or float64 where that is on: int32 / int alone would be float32 always."""
    return jnp.asarray(step, float)


def _warm(step, warmup: int):
    """Linear warm-up to 1. (step + 1): the first update is not spent on a rate of zero."""
    return jnp.minimum(1.0, (_real(step) + 1) / max(warmup, 1))


@dataclass(frozen=True)
class Ramp:
    """Linear from `start` at step 0 to `end` at step `steps`, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step):
        return self.start + (self.end - self.start) * jnp.clip(_real(step) / max(self.steps, 1), 0.0, 1.0)


@dataclass(frozen=True)
class Times:
    """Another schedule, or a number, times a factor."""

    of: Callable | float
    factor: float

    def __call__(self, step):
        return self.factor * (self.of(step) if callable(self.of) else self.of)


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
        decay = Cosine(1.0, self.floor, max(self.steps - self.warmup, 1))(step - self.warmup)
        return self.peak * _warm(step, self.warmup) * jnp.where(step < self.warmup, 1.0, decay)


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up to `peak`, `peak`, then down to `floor * peak` over the last `decay` of `steps` steps.

    `shape` is that of the decay: linear, or 1-sqrt, whose fall slows down (Haegele et al. 2024, section 3).
    """

    peak: float
    warmup: int
    steps: int
    decay: int
    floor: float = 0.0
    shape: str = "linear"

    def __call__(self, step):
        progress = jnp.clip((_real(step) - (self.steps - self.decay)) / max(self.decay, 1), 0.0, 1.0)
        fallen = jnp.sqrt(progress) if self.shape == "1-sqrt" else progress
        return self.peak * _warm(step, self.warmup) * (1 - (1 - self.floor) * fallen)


@dataclass(frozen=True)
class InverseSqrt:
    """`peak * sqrt(warmup / n)` from the `warmup`-th update on, n counted from 1 (Vaswani et al. 2017, section 5.3).

    Before it a linear warm-up, or `peak` itself where `ramp` is off (Raffel et al. 2020, section 3.1.2).
    """

    peak: float
    warmup: int
    ramp: bool = True

    def __call__(self, step):
        before = _warm(step, self.warmup) if self.ramp else 1.0
        return self.peak * jnp.minimum(before, jnp.sqrt(max(self.warmup, 1) / (_real(step) + 1)))


@dataclass(frozen=True)
class WarmupSteps:
    """Linear warm-up to `peak`, which is multiplied by `factor` from each of the `milestones` (steps) on."""

    peak: float
    warmup: int
    milestones: tuple[int, ...]
    factor: float = 0.1

    def __call__(self, step):
        passed = sum(jnp.where(step >= milestone, 1.0, 0.0) for milestone in self.milestones)
        return self.peak * _warm(step, self.warmup) * self.factor**passed


@dataclass(frozen=True)
class SlantedTriangular:
    """Up from `peak / ratio` to `peak` at step `cut`, and down again (Howard & Ruder 2018, equation 3); `rise` is the share of
    the run that `cut` was made of."""

    peak: float
    cut: int
    rise: float
    ratio: float = 32.0

    def __call__(self, step):
        fall = self.cut * (1 / self.rise - 1)
        up, down = _real(step) / self.cut, 1 - (_real(step) - self.cut) / fall
        share = jnp.clip(jnp.where(step < self.cut, up, down), 0.0, 1.0)
        return self.peak * (1 + share * (self.ratio - 1)) / self.ratio
