"""The section `config.study` beside an ordinary run's configuration: which runs a study is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.scaling.rates import RATES

KINDS = ("isoflop", "ladder", "both", "grid")
# What each kind has no use for: a value of it that is not the default is a mistake.
UNREAD = {
    "isoflop": ("parameters", "multiples"),
    "ladder": ("budgets", "smallest", "total", "count", "factor", "sizes", "spread", "guess"),
    "both": (),
    "grid": (
        "budgets", "smallest", "total", "count", "factor", "sizes", "spread", "guess", "parameters", "multiples", "shapes",
        "tokens_per_parameter", "rule", "slack", "width_multiple", "rate", "warmup", "evaluations",
    ),
}  # fmt: skip
RULES = ("aspect", "width", "depth", "list")


@dataclass(frozen=True)
class StudyConfig:
    """Budgets are training FLOPs, forward and backward, by `convention`; units are tokens of text, else examples.

    Attributes:
      kind: "isoflop" (per budget several sizes, each trained for what the budget leaves), "ladder" (sizes x multiples of
        `tokens_per_parameter`), "both", or "grid" (products of overrides).
      budgets: of isoFLOP runs. Where there are none: `count` of them, each `factor` times the one before, from `smallest` on,
        or such that they make up `total` with `sizes` runs each.
      sizes: models per budget, evenly in log N from the guessed optimum / spread to the guess x spread.
      guess: what is guessed as a budget's best N: "" is D = tokens_per_parameter x N, else the name of a published law
        (scaling/presets.py) or the fit.json of an earlier study.
      parameters: the N that a ladder's sizes are nearest to. multiples: its D, in tokens_per_parameter x N.
      rule: how sizes come from config.model: "aspect" (width and depth together, heads of one size), "width" or "depth" alone,
        or "list": those of `shapes`.
      slack: by what factor depth may differ from the constant aspect ratio, for sizes between two widths; 1 is none.
      width_multiple: widths are multiples of this; 0 is a head (or two that share keys, or one of each tensor way).
      shapes: overrides of config.model such as "model.width=64 model.depth=4", one string a size; no other sizes then.
      counted: what N counts; convention: what FLOPs count; names of scaling/counting.py.
      rate: by which rule learning rate, batch and the like follow (scaling/rates.py).
      warmup: below 1 a share of the run, from 1 on a number of units; -1 leaves config.schedule as it is.
      seeds: each run once with each of these; () is config.seed.
      evaluations: how often in a run the held-out loss is taken, evenly, the last step's included; 0 leaves
        config.train.eval_every as it is. Approach 1 needs some.
      metric: what a run reached, lower being better: a held-out metric, such as "held_out/term/nll" where the loss of runs with
        other choices cannot be compared.
      grid: keys and lists of values of a study of kind "grid", such as "schedule.peak=1e-3,3e-3; model.width=64,128".
      list: a file with a set of overrides in each line, such as "schedule.peak=1e-3 seed=1".
    """

    kind: str = field(default="isoflop", metadata={"choices": KINDS})
    budgets: tuple[float, ...] = field(default=(), metadata={"above": 0})
    smallest: float = field(default=0.0, metadata={"min": 0})
    total: float = field(default=0.0, metadata={"min": 0})
    count: int = field(default=4, metadata={"min": 1})
    factor: float = field(default=3.0, metadata={"above": 1})
    sizes: int = field(default=5, metadata={"min": 1})
    spread: float = field(default=4.0, metadata={"above": 1})
    tokens_per_parameter: float = field(default=20.0, metadata={"above": 0})
    guess: str = ""
    parameters: tuple[float, ...] = field(default=(), metadata={"above": 0})
    multiples: tuple[float, ...] = field(default=(0.5, 1.0, 2.0, 5.0, 10.0), metadata={"above": 0})
    rule: str = field(default="aspect", metadata={"choices": RULES})
    slack: float = field(default=1.5, metadata={"min": 1})
    width_multiple: int = field(default=0, metadata={"min": 0})
    shapes: tuple[str, ...] = ()
    counted: str = "total"
    convention: str = "model"
    rate: Any = field(default=RATES["constant"](), metadata={"table": RATES, "default_name": "constant"})
    warmup: float = field(default=0.05, metadata={"min": -1})
    seeds: tuple[int, ...] = field(default=(), metadata={"min": 0})
    evaluations: int = field(default=0, metadata={"min": 0})
    metric: str = "held_out/loss"
    grid: str = ""
    list: str = ""

    def __post_init__(self):
        of_grid = bool(self.grid) + bool(self.list)
        if self.kind == "grid" and of_grid != 1:
            raise ConfigError(
                "a grid needs either keys with values or a list of overrides",
                where="config.study.grid",
                why="neither is given" if not of_grid else "config.study.list is given, too",
                do='--grid="schedule.peak=1e-3,3e-3; model.width=64,128", or --list=FILE',
            )
        if self.kind != "grid" and of_grid:
            raise ConfigError(
                "keys with values are of a study of kind 'grid'",
                where="config.study.grid",
                why=f"config.study.kind is {self.kind!r}",
                do="--config.study.kind=grid, or leave them out",
            )
        changed = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if stray := [name for name in changed if name in UNREAD[self.kind]]:
            raise ConfigError(
                f"a study of kind {self.kind!r} does not read {', '.join(stray)}",
                where=f"config.study.{stray[0]}",
                why="it would change nothing",
                do="leave them out" + (", or name the config of a run, not of a study" * (self.kind == "grid")),
            )
        given = [name for name in ("budgets", "smallest", "total") if getattr(self, name)]
        if self.kind in ("isoflop", "both") and len(given) != 1:
            raise ConfigError(
                "which budgets are meant is not clear" if given else "there are no budgets",
                where="config.study.budgets",
                why=f"given: {', '.join(given) or 'none'}",
                do="give one of budgets, smallest (with count and factor) and total (with count and factor)",
            )
        if (self.rule == "list") != bool(self.shapes):
            raise ConfigError(
                "the rule 'list' and a list of shapes go together",
                where="config.study.shapes",
                why=f"config.study.rule is {self.rule!r}, and there are {len(self.shapes)} shapes",
                do="give both or neither",
            )
        if self.kind in ("ladder", "both") and not (self.parameters or self.shapes):
            raise ConfigError(
                "a ladder has no sizes",
                where="config.study.parameters",
                why="neither numbers of parameters nor shapes are given",
                do='--config.study.parameters="(1e6,2e6,4e6)"',
            )
        if 0 > self.warmup > -1:
            raise ConfigError(
                "a warm-up is no less than nothing",
                where="config.study.warmup",
                why=f"{self.warmup}",
                do="a share of the run, a number of units, or -1 for what config.schedule says",
            )
        for name in ("seeds", "budgets", "multiples", "parameters", "shapes"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ConfigError(
                    "something is named twice",
                    where=f"config.study.{name}",
                    why=str(getattr(self, name)),
                    do="name each once",
                )

    def flops(self) -> tuple[float, ...]:
        """The budgets in FLOPs, from the least on."""
        if self.budgets:
            return tuple(sorted(self.budgets))
        steps = [self.factor**index for index in range(self.count)]
        least = self.smallest or self.total / (self.sizes * math.fsum(steps))
        # Four digits: a budget is a round number, and its name in a run's id is its value.
        return tuple(float(f"{least * step:.4g}") for step in steps)


def split(values: dict[str, Any]) -> tuple[dict[str, Any], StudyConfig | None]:
    """(the run's configuration without the section `study`, that section or None). ConfigError for what is wrong with it."""
    run = {key: value for key, value in values.items() if key != "study"}
    return run, strict.parse(StudyConfig, values["study"], "config.study") if "study" in values else None
