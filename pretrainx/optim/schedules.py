"""Learning-rate schedules by name. Each is a frozen record: equal configs give equal, hashable schedules."""

from __future__ import annotations

from dataclasses import dataclass, field

from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Ramp, WarmupCosine


@dataclass(frozen=True)
class CosineConfig:
    """Linear warm-up to `peak`, cosine to `floor * peak` at the last step."""

    peak: float = field(default=1e-3, metadata={"above": 0})
    warmup: int = field(default=100, metadata={"min": 0})
    floor: float = field(default=0.1, metadata={"min": 0, "max": 1})

    def over(self, steps: int) -> WarmupCosine:
        """The schedule of a run of `steps` steps."""
        if self.warmup >= steps:
            raise ConfigError(
                "the warm-up is as long as the run",
                where="config.schedule.warmup",
                why=f"warmup {self.warmup}, train.steps {steps}",
                do=f"--config.schedule.warmup={steps // 10}, or a longer run",
            )
        return WarmupCosine(self.peak, self.warmup, steps, self.floor)


@dataclass(frozen=True)
class ConstantConfig:
    """Linear warm-up to `peak`, then constant."""

    peak: float = field(default=1e-3, metadata={"above": 0})
    warmup: int = field(default=0, metadata={"min": 0})

    def over(self, steps: int) -> Ramp:
        # As the cosine: the first update already has a rate.
        return Ramp(self.peak / max(self.warmup, 1), self.peak, max(self.warmup - 1, 0))


SCHEDULES = {"cosine": CosineConfig, "constant": ConstantConfig}
