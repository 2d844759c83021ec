"""Learning-rate schedules by name. Each is a frozen record: equal configs give equal, hashable schedules.

Steps are updates, counted from 0. The first update of a warm-up has the rate `peak / warmup`, never zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import InverseSqrt, Ramp, SlantedTriangular, WarmupCosine, WarmupStableDecay, WarmupSteps


def check_warmup(warmup: int, steps: int) -> None:
    """ConfigError where the warm-up leaves no step of the run for what follows it."""
    if warmup >= steps:
        raise ConfigError(
            "the warm-up is as long as the run",
            where="config.schedule.warmup",
            why=f"warmup {warmup}, train.steps {steps}",
            do=f"--config.schedule.warmup={steps // 10}, or a longer run",
        )


def steps_of(amount: float, steps: int, name: str) -> int:
    """A part of a run as steps: below 1 it is a share of the run, from 1 on a whole number of steps."""
    if amount < 1:
        return round(amount * steps)
    if amount != int(amount):
        raise ConfigError(
            "neither a share of the run nor a whole number of steps",
            where=f"config.schedule.{name}",
            why=f"{amount!r}",
            do=f"--config.schedule.{name}: below 1 it is a share of the run, from 1 on a number of steps",
        )
    return int(amount)


@dataclass(frozen=True)
class CosineConfig:
    """Linear warm-up to `peak`, cosine to `floor * peak` at the last step."""

    peak: float = field(default=1e-3, metadata={"above": 0})
    warmup: int = field(default=100, metadata={"min": 0})
    floor: float = field(default=0.1, metadata={"min": 0, "max": 1})

    def over(self, steps: int) -> WarmupCosine:
        """The schedule of a run of `steps` steps."""
        check_warmup(self.warmup, steps)
        return WarmupCosine(self.peak, self.warmup, steps, self.floor)


@dataclass(frozen=True)
class ConstantConfig:
    """Linear warm-up to `peak`, then constant."""

    peak: float = field(default=1e-3, metadata={"above": 0})
    warmup: int = field(default=0, metadata={"min": 0})

    def over(self, steps: int) -> Ramp:
        check_warmup(self.warmup, steps)
        # As the cosine: the first update already has a rate.
        return Ramp(self.peak / max(self.warmup, 1), self.peak, max(self.warmup - 1, 0))


@dataclass(frozen=True)
class LinearConfig:
    """Linear warm-up to `peak`, linear to `floor * peak` at the last step (BERT)."""

    peak: float = field(default=1e-3, metadata={"above": 0})
    warmup: int = field(default=100, metadata={"min": 0})
    floor: float = field(default=0.0, metadata={"min": 0, "max": 1})

    def over(self, steps: int) -> WarmupStableDecay:
        check_warmup(self.warmup, steps)
        return WarmupStableDecay(self.peak, self.warmup, steps, steps - self.warmup, self.floor)


@dataclass(frozen=True)
class SlantedTriangularConfig:
    """A short linear rise to `peak`, a long linear fall, both from and to peak / `ratio` (Howard & Ruder 2018, section 3.2).

    Attributes:
      rise: the share of the run that the rate rises.
    """

    peak: float = field(default=1e-3, metadata={"above": 0})
    rise: float = field(default=0.1, metadata={"above": 0, "below": 1})
    ratio: float = field(default=32.0, metadata={"min": 1})

    def over(self, steps: int) -> SlantedTriangular:
        return SlantedTriangular(self.peak, max(int(steps * self.rise), 1), self.rise, self.ratio)


@dataclass(frozen=True)
class StableDecayConfig:
    """Linear warm-up to `peak`, `peak`, then a decay to `floor * peak` at the last step (WSD, Hu et al. 2024).

    Attributes:
      decay: length of the decay: below 1 a share of the run, from 1 on a number of steps.
      shape: linear, or 1-sqrt (Haegele et al. 2024).
    """

    peak: float = field(default=1e-3, metadata={"above": 0})
    warmup: int = field(default=100, metadata={"min": 0})
    decay: float = field(default=0.2, metadata={"above": 0})
    floor: float = field(default=0.0, metadata={"min": 0, "max": 1})
    shape: str = field(default="linear", metadata={"choices": ("linear", "1-sqrt")})

    def over(self, steps: int) -> WarmupStableDecay:
        check_warmup(self.warmup, steps)
        decay = steps_of(self.decay, steps, "decay")
        if not 1 <= decay <= steps - self.warmup:
            raise ConfigError(
                "the decay does not fit between the warm-up and the end of the run",
                where="config.schedule.decay",
                why=f"decay {decay} steps (from {self.decay!r}), warmup {self.warmup}, train.steps {steps}",
                do=f"--config.schedule.decay={max((steps - self.warmup) // 5, 1)}, or another warm-up",
            )
        return WarmupStableDecay(self.peak, self.warmup, steps, decay, self.floor, self.shape)


@dataclass(frozen=True)
class InverseSqrtConfig:
    """`peak` until update `warmup`, then as one over the square root of the update's number: it knows no last step.

    `ramp` warms up linearly to the peak (Vaswani et al. 2017); without it the rate is the peak from the start, as T5's
    (peak 0.01, warmup 10000: Raffel et al. 2020).
    """

    peak: float = field(default=1e-2, metadata={"above": 0})
    warmup: int = field(default=100, metadata={"min": 1})
    ramp: bool = True

    def over(self, steps: int) -> InverseSqrt:
        check_warmup(self.warmup, steps)
        return InverseSqrt(self.peak, self.warmup, self.ramp)


@dataclass(frozen=True)
class StepConfig:
    """Linear warm-up to `peak`, then `factor` times the rate at each milestone (SGD on images: He et al. 2016).

    Attributes:
      milestones: below 1 a share of the run, from 1 on a step; each after the one before.
    """

    peak: float = field(default=0.1, metadata={"above": 0})
    warmup: int = field(default=0, metadata={"min": 0})
    milestones: tuple[float, ...] = field(default=(0.6, 0.8), metadata={"above": 0})
    factor: float = field(default=0.1, metadata={"above": 0, "max": 1})

    def over(self, steps: int) -> WarmupSteps:
        check_warmup(self.warmup, steps)
        found = tuple(steps_of(milestone, steps, "milestones") for milestone in self.milestones)
        # A milestone within the warm-up would cut a rate that has not been reached.
        bounds = (max(self.warmup, 1) - 1, *found, steps)
        if not found or any(after <= before for before, after in itertools.pairwise(bounds)):
            raise ConfigError(
                "the milestones are not steps in order between the warm-up and the end of the run",
                where="config.schedule.milestones",
                why=f"steps {list(found)} (from {list(self.milestones)}), warmup {self.warmup}, train.steps {steps}",
                do="--config.schedule.milestones=0.6,0.8, or config.schedule.name='constant' for none",
            )
        return WarmupSteps(self.peak, self.warmup, found, self.factor)


SCHEDULES = {
    "constant": ConstantConfig,
    "cosine": CosineConfig,
    "inverse_sqrt": InverseSqrtConfig,
    "linear": LinearConfig,
    "slanted_triangular": SlantedTriangularConfig,
    "step": StepConfig,
    "wsd": StableDecayConfig,
}
