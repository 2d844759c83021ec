"""How work is divided over mesh axes where the rule table alone does not say it: the section `config.sharding`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ShardingConfig:
    """Attributes:
    context: how queries meet the keys of other devices along the mesh axis `context`: "gather" collects all keys and values on
      each, "ring" passes them around, and no device ever holds them all (Liu et al. 2023).
    microbatches: into how many pieces the rows travel through the stages of the mesh axis `stage`; 0 takes as many as stages.
    rounds: how often a piece passes each stage. 1 is GPipe (Huang et al. 2019): a stage holds neighbouring layers; more is the
      circular schedule: a stage holds so many groups of layers, and idles so many times less (Narayanan et al. 2021).
    """

    context: str = field(default="gather", metadata={"choices": ("gather", "ring")})
    microbatches: int = field(default=0, metadata={"min": 0})
    rounds: int = field(default=1, metadata={"min": 1})
