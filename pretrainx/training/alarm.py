"""Whether a run's embeddings collapse: a look at the figures of each logged step, none of which changes the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pretrainx.objectives.collapse import RANK_ALARM, STD_ALARM


@dataclass(frozen=True)
class AlarmConfig:
    """Attributes:
    collapse_std: an `embedding_std` below this is a collapse; 1 is what embeddings have that point everywhere. 0 is off.
    collapse_rank: as is an `embedding_rank` (the share of directions in use) below this. 0 is off.
    patience: after so many logged steps in a row.
    after: the first so many steps are not judged: a fresh network may send all pictures to nearly the same place.
    stop: whether the run ends then (exit 8); otherwise it is told and goes on.
    """

    collapse_std: float = field(default=STD_ALARM, metadata={"min": 0})
    collapse_rank: float = field(default=RANK_ALARM, metadata={"min": 0, "max": 1})
    patience: int = field(default=3, metadata={"min": 1})
    after: int = field(default=100, metadata={"min": 0})
    stop: bool = False


@dataclass
class Alarm:
    """Called with the record of each logged step.

    Attributes:
      low: {metric: for how many logged steps in a row it has been below its threshold}; of this process alone: a run that
        goes on counts anew.
    """

    config: AlarmConfig = AlarmConfig()
    low: dict[str, int] = field(default_factory=dict)

    def __call__(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """[{"metric", "value", "threshold"}] of the collapses that begin with this record: each is told once, and again only
        after the metric has been above its threshold. A value that is not finite is none: the guard tells of those."""
        thresholds = {"embedding_std": self.config.collapse_std, "embedding_rank": self.config.collapse_rank}
        begun = []
        for metric, value in record.items():
            threshold = thresholds.get(metric.rsplit("/", 1)[-1])  # a mixture's are metric/<task>/<name>
            if threshold is None or record["step"] <= self.config.after:
                continue
            self.low[metric] = self.low.get(metric, 0) + 1 if value < threshold else 0
            if self.low[metric] == self.config.patience:
                begun.append({"metric": metric, "value": value, "threshold": threshold})
        return begun
