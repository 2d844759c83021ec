"""Learning rate, batch and what goes with them, by named rules: overrides of a run that follow from its size and length."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pretrainx.core.errors import ConfigError


@dataclass(frozen=True)
class Cell:
    """What a rule may look at.

    Attributes:
      recipe: the run with its shape, everything else as the config has it.
      parameters: N. flops: C of the run. tokens: D, before it is rounded to steps; units_per_row: units that a row brings.
      unit_of_batch: the batch is a multiple of this many rows (devices x microbatches).
    """

    recipe: Any
    parameters: float
    flops: float
    tokens: float
    units_per_row: float
    unit_of_batch: int = 1

    def rows(self, wanted: float) -> int:
        """The number of rows nearest to this that the mesh takes."""
        return max(1, round(wanted / self.unit_of_batch)) * self.unit_of_batch


@dataclass(frozen=True)
class Constant:
    """Rate and batch as the config has them, for every run."""

    def base(self, sections: dict[str, Any]) -> dict[str, Any]:
        """Overrides of all runs alike; `sections`: {dotted path: section} of the config's own towers."""
        return {}

    def changes(self, cell: Cell) -> dict[str, Any]:
        """Overrides of one run."""
        return {}


@dataclass(frozen=True)
class Mup(Constant):
    """The config's rate, which was tuned for the config's own model, carried to other widths by muP (Yang et al. 2022):
    config.model.base_width is the width of that model where it is not set.

    Attributes:
      depth: to other depths, too (CompleteP: Dey et al. 2025): config.model.base_depth is that model's depth.
    """

    depth: bool = False

    def base(self, sections: dict[str, Any]) -> dict[str, Any]:
        path, section = next(iter(sections.items()))
        if len(sections) > 1 or not hasattr(section, "base_width"):
            raise ConfigError(
                "muP has no rule for this model",
                where="config.study.rate.name",
                why=f"{path} is a {type(section).__name__}" + ", one of several towers" * (len(sections) > 1),
                do="another rule, such as constant",
            )
        found = {f"{path}.base_width": section.base_width or section.width}
        return found | ({f"{path}.base_depth": section.base_depth or section.depth} if self.depth else {})


@dataclass(frozen=True)
class Marin(Constant):
    """rate = coefficient sqrt(rows) / width, beta2 = beta2 ** (rows / 128) (marin-community/marin, scaling_laws/recipe.py).

    Attributes:
      highest: while the rate is above it, the batch is halved. least: a batch below so many rows is refused.
      steps: the batch is the power of two nearest to D / (steps x units of a row), Marin's 2 ** 16 at its sizes; 0 takes
        config.train.batch_size.
    """

    coefficient: float = field(default=0.33, metadata={"above": 0})
    beta2: float = field(default=0.98, metadata={"above": 0, "below": 1})
    highest: float = field(default=0.01, metadata={"above": 0})
    least: int = field(default=8, metadata={"min": 1})
    steps: int = field(default=0, metadata={"min": 0})

    def changes(self, cell: Cell) -> dict[str, Any]:
        width, rows = width_of(cell.recipe.model), cell.recipe.train.batch_size
        if self.steps:
            rows = 2 ** max(0, round(math.log2(cell.tokens / (self.steps * cell.units_per_row))))
        rows = cell.rows(rows)
        while self.coefficient * math.sqrt(rows) / width > self.highest and rows // 2 >= cell.unit_of_batch:
            rows = cell.rows(rows // 2)
        if rows < self.least or self.coefficient * math.sqrt(rows) / width > self.highest:
            raise ConfigError(
                "the rule finds no batch",
                where="config.study.rate",
                why=f"at width {width} the rate is at most {self.highest} with {rows} rows or fewer, and {self.least} are "
                f"the least; {cell.tokens:.3g} units are to be read",
                do="larger budgets or widths, a higher `highest`, or fewer `steps`",
            )
        rate = self.coefficient * math.sqrt(rows) / width
        return {"train.batch_size": rows, "schedule.peak": rate, "optimizer.b2": self.beta2 ** (rows / 128)}


@dataclass(frozen=True)
class DeepSeek(Constant):
    """rate = rate x C ** rate_exponent, units of a batch = batch x C ** batch_exponent (DeepSeek LLM 2024, section 3.1)."""

    rate: float = field(default=0.3118, metadata={"above": 0})
    rate_exponent: float = -0.1250
    batch: float = field(default=0.2920, metadata={"min": 0})
    batch_exponent: float = 0.3271

    def changes(self, cell: Cell) -> dict[str, Any]:
        units = self.batch * cell.flops**self.batch_exponent
        found: dict[str, Any] = {"schedule.peak": self.rate * cell.flops**self.rate_exponent}
        if self.batch:
            found["train.batch_size"] = cell.rows(units / cell.units_per_row)
        return found


@dataclass(frozen=True)
class Power(Constant):
    """rate = rate x (N / parameters) ** rate_exponent, rows = batch x (D / tokens) ** batch_exponent; with a larger batch the
    rate grows by (rows / batch) ** batch_rate_exponent.

    Attributes:
      rate, batch: at `parameters` and `tokens`; 0 takes the config's. A nanochat-like rule has batch_exponent 0.383.
    """

    parameters: float = field(default=1e6, metadata={"above": 0})
    tokens: float = field(default=20e6, metadata={"above": 0})
    rate: float = field(default=0.0, metadata={"min": 0})
    rate_exponent: float = 0.0
    batch: float = field(default=0.0, metadata={"min": 0})
    batch_exponent: float = 0.0
    batch_rate_exponent: float = 0.0

    def changes(self, cell: Cell) -> dict[str, Any]:
        start = self.batch or cell.recipe.train.batch_size
        rows = cell.rows(start * (cell.tokens / self.tokens) ** self.batch_exponent)
        rate = (self.rate or cell.recipe.schedule.peak) * (cell.parameters / self.parameters) ** self.rate_exponent
        return {"train.batch_size": rows, "schedule.peak": rate * (rows / start) ** self.batch_rate_exponent}


RATES = {"constant": Constant, "mup": Mup, "marin": Marin, "deepseek": DeepSeek, "power": Power}


def width_of(model: Any) -> int:
    """Of a model with two towers the picture's."""
    return getattr(model, "image", model).width


def warmup_of(warmup: float, steps: int, units_per_step: float, schedule: Any) -> dict[str, int]:
    """{"schedule.warmup": steps} of a share of the run or a number of units; {} where it has none or keeps its own."""
    if warmup < 0 or not hasattr(schedule, "warmup"):
        return {}
    wanted = warmup * steps if warmup < 1 else warmup / units_per_step
    least = type(schedule).__dataclass_fields__["warmup"].metadata.get("min", 0)
    return {"schedule.warmup": max(least, min(round(wanted), steps - 1))}
