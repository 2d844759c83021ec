"""Whether a run's embeddings collapse: a look at the figures of each logged step, none of which changes the training.

What is looked at costs a step nothing: the spread of embeddings, and how many directions they use. That is the participation
ratio of a batch's embeddings (see `objectives.collapse`), not RankMe, which takes the singular values of four fixed rows for
each dimension: `evals.collapse` has it, at each evaluation. Either figure alone gives the alarm, and the loss is not asked: it
falls in health and in collapse alike, and without negatives SimCLR's rank is gone long before its spread. An accuracy that no
longer rises is left to whoever reads the evaluations: it is a plateau as often as a collapse.
"""

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
    patience: for so many steps from the first logged one that is below, with none above between; a figure of one step alone
      gives no alarm.
    after: the first so many steps are not judged: a fresh network may send all pictures to nearly the same place.
    stop: whether the run ends then (exit 8); otherwise it is told and goes on.
    """

    collapse_std: float = field(default=STD_ALARM, metadata={"min": 0})
    collapse_rank: float = field(default=RANK_ALARM, metadata={"min": 0, "max": 1})
    patience: int = field(default=20, metadata={"min": 1})
    after: int = field(default=100, metadata={"min": 0})
    stop: bool = False


@dataclass
class Alarm:
    """Called with the record of each logged step.

    Attributes:
      low: {metric: the step since which it has been below its threshold}; of this process alone: a run that goes on counts
        anew.
      told: the metrics among these of which it was told.
    """

    config: AlarmConfig = AlarmConfig()
    low: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def __call__(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """[{"metric", "value", "threshold"}] of the collapses that begin with this record: each is told once, and again only
        after the metric has been above its threshold. A value that is not finite is none: the guard tells of those."""
        thresholds = {"embedding_std": self.config.collapse_std, "embedding_rank": self.config.collapse_rank}
        begun = []
        for metric, value in record.items():
            threshold = thresholds.get(metric.rsplit("/", 1)[-1])  # a mixture's are metric/<task>/<name>
            if threshold is None or record["step"] <= self.config.after:
                continue
            if not value < threshold:
                self.low.pop(metric, None)
                self.told.discard(metric)
                continue
            since = self.low.setdefault(metric, record["step"])
            if record["step"] - since >= self.config.patience and metric not in self.told:
                self.told.add(metric)
                begun.append({"metric": metric, "value": value, "threshold": threshold})
        return begun
