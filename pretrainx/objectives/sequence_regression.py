"""Numbers of texts and of pairs of texts, such as how alike two are, by a head on one vector of a pretrained model."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from pretrainx.core.labelled import Labelled
from pretrainx.core.records import Observation, Term
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.sequence_classification import Pooled, PooledConfig


@dataclass(frozen=True)
class SequenceRegressionConfig(PooledConfig):
    """The section `config.objective` of this task.

    Attributes:
      standardise: the head learns numbers in deviations from the training labels' mean; metrics are in the labels' own units.
    """

    standardise: bool = True

    def build(self, model, about: Labelled, widths: tuple[int, int], precision: Precision) -> SequenceRegression:
        """`model` is the section `config.model`; `widths`: tokens of a row, and of a target that is a text."""
        shared = self.pooled("sequence_regression", "number", model, about, widths, precision, 1)
        return SequenceRegression(*shared, *((about.mean, about.std) if self.standardise else ()))


@dataclass(frozen=True)
class SequenceRegression(Pooled):
    """Mean squared error of the texts' numbers; as metric "squared_error" the same in the labels' own units.

    The output "logits" is float32[B, 1], in units of `std` around `mean`.

    Attributes:
      mean, std: of the training labels.
    """

    mean: float = 0.0
    std: float = 1.0

    terms = (Term("mse"),)

    def observe(self, key, example, step):
        label = (example["label"] - self.mean) / self.std
        return Observation(self.inputs_of(example), label, {"mse": jnp.ones((), jnp.float32)})

    def scored(self, logits, observation, train):
        return cross_entropy.outcome("mse", (logits[:, 0] - observation.targets) ** 2, observation.weights["mse"])

    def judged(self, logits, observation):
        weights = observation.weights["mse"]
        error = (logits[:, 0] - observation.targets) * self.std
        return {"squared_error": (jnp.where(weights > 0, error**2, 0), weights)}
