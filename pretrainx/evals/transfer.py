"""What a start is worth: curves of a metric over the number of labels, compared over paired seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pretrainx.core.errors import ConfigError


@dataclass(frozen=True)
class TransferConfig:
    """The section `config.evals.transfer`.

    Attributes:
      labels: so many labelled examples of each class (in all, where there are no classes), one point of the curve each.
      seeds: runs of each point; a seed decides the examples, their order and the new head.
      scratch: whether the same network is trained from random values beside, with the same data and budget.
      metric: what is compared, larger being better: "accuracy", or another metric of the task's objective.
    """

    labels: tuple[int, ...] = field(default=(10, 30, 100, 300), metadata={"min": 1})
    seeds: int = field(default=5, metadata={"min": 2})
    scratch: bool = True
    metric: str = "accuracy"

    def __post_init__(self):
        if not self.labels or list(self.labels) != sorted(set(self.labels)):
            raise ConfigError(
                "the numbers of labels do not rise",
                where="config.evals.transfer.labels",
                why=f"got {self.labels}",
                do="give some, each larger than the one before, such as (10, 30, 100, 300)",
            )


@dataclass
class Curve:
    """values: float[M, S], of M numbers of labels and S seeds."""

    labels: tuple[int, ...]
    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """float[M]"""
        return self.values.mean(1)


def half_width(values: np.ndarray) -> float:
    """Of the 95 % interval of the mean of values float[S], by Student's t."""
    from scipy import stats

    count = len(values)
    return float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)


def compared(pretrained: Curve, scratch: Curve | None, metric: str) -> dict[str, float]:
    """{name: value}: of each number of labels m "METRIC/m" and "scratch/METRIC/m", each with "/interval", half of the 95 % one;

    "gain/m": the mean difference, pretrained less scratch, of paired seeds, with its interval; "negative/m": 1 where the
    interval lies below zero, else 0; "labels_ratio/m": how many times as many labels training from scratch needs for the mean
    of m, interpolated along the logarithm of m. It is left out where the largest number of labels was not enough, or the
    smallest already was.
    """
    found = {}
    for index, labels in enumerate(pretrained.labels):
        for name, curve in (("", pretrained), ("scratch/", scratch)):
            if curve is not None:
                found[f"{name}{metric}/{labels}"] = float(curve.means[index])
                found[f"{name}{metric}/{labels}/interval"] = half_width(curve.values[index])
        if scratch is None:
            continue
        gains = pretrained.values[index] - scratch.values[index]
        found[f"gain/{labels}"], width = float(gains.mean()), half_width(gains)
        found[f"gain/{labels}/interval"] = width
        found[f"negative/{labels}"] = float(gains.mean() + width < 0)
        needed = labels_for(scratch, pretrained.means[index])
        if needed is not None:
            found[f"labels_ratio/{labels}"] = needed / labels
    return found


def labels_for(curve: Curve, wanted: float) -> float | None:
    """The number of labels at which the curve first reaches a value; None where it begins above it or never does."""
    means = curve.means
    reached = np.flatnonzero(means >= wanted)
    if len(reached) == 0 or reached[0] == 0:
        return None
    after = reached[0]
    (low, high), (below, above) = np.log(curve.labels[after - 1 : after + 1]), means[after - 1 : after + 1]
    return float(np.exp(low + (high - low) * (wanted - below) / (above - below)))
