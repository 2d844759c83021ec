"""Classes of texts and of pairs of texts, by a head on one vector of a pretrained model (Devlin et al. 2019, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled
from pretrainx.core.records import Observation, Term
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision, wide
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.labelled_text import POOLS, HeadConfig, LabelledText, mean_of


@dataclass(frozen=True)
class PooledConfig(HeadConfig):
    """What tasks on one vector of a text have in common.

    Attributes:
      pool: the vector: "cls" (the first token's, through the pooler of a model that has one), "mean" (of the tokens without
        padding), "last" (of the last token: of decoders). "auto": "last" of decoders, "cls" of encoders with a pooler or
        with a head "dense", which takes its place, else "mean".
    """

    pool: str = field(default="auto", metadata={"choices": POOLS})

    def pooling(self, model: Any) -> str:
        """ConfigError where the first token of a decoder is to tell what follows."""
        if isinstance(model, DecoderConfig):
            if self.pool == "cls":
                raise ConfigError(
                    "the first token of a decoder sees nothing of the text",
                    where="config.objective.pool",
                    why="'cls' reads it, and a decoder looks back only",
                    do="--config.objective.pool=last, or mean",
                )
            return "last" if self.pool == "auto" else self.pool
        if self.pool == "auto":
            return "cls" if getattr(model, "pooler", False) or self.head == "dense" else "mean"
        return self.pool

    def pooled(
        self,
        name: str,
        target: str,
        model: Any,
        about: Labelled,
        widths: tuple[int, int],
        precision: Precision,
        count: int,
    ) -> tuple:
        """The fields of a `Pooled` but the config."""
        pool = self.pooling(model)
        # A pooler that nothing reads would only decay.
        kept = {"pooler": getattr(model, "pooler", False) and pool == "cls"}
        return *self.parts(name, target, model, about, widths[0], precision, count, **kept), about.vocabulary, pool


@dataclass(frozen=True)
class Pooled(LabelledText):
    """A task on one vector of a text.

    Attributes:
      pool: "cls", "mean" or "last".
    """

    pool: str = "mean"

    def read(self, params, inputs, keys=None):
        hidden, real = self.hidden(params, inputs, keys), self.real(inputs)
        if self.pool == "mean":
            vector = mean_of(hidden, real)
        elif self.pool == "last":
            places = jnp.arange(real.shape[1])
            last = jnp.where(real, places, 0).max(1)
            vector = jnp.take_along_axis(hidden, last[:, None, None], 1)[:, 0]
        elif self.model.config.pooler:
            vector = self.run(params, "pooled", hidden)
        else:
            vector = hidden[:, 0]
        return {"logits": self.scores(params, vector, keys), "features": vector, "hidden": hidden}


@dataclass(frozen=True)
class SequenceClassificationConfig(PooledConfig):
    """The section `config.objective` of this task.

    Attributes:
      label_smoothing: this share of the target is spread over all classes in training (Szegedy et al. 2016); the loss of
        evaluations is without it.
    """

    label_smoothing: float = field(default=0.0, metadata={"min": 0, "max": 0.99})

    def build(self, model, about: Labelled, widths: tuple[int, int], precision: Precision) -> SequenceClassification:
        """`model` is the section `config.model`; `widths`: tokens of a row, and of a target that is a text."""
        shared = self.pooled("sequence_classification", "class", model, about, widths, precision, len(about.classes))
        return SequenceClassification(*shared, self.label_smoothing)


@dataclass(frozen=True)
class SequenceClassification(Pooled):
    """Mean negative log-likelihood of the texts' classes; as metric "accuracy" the share whose class is the likeliest.

    Observations have targets int32[] and weights {"nll": float32[]}, 0 where the label is none of the classes.
    """

    label_smoothing: float = 0.0

    terms = (Term("nll"),)

    def observe(self, key, example, step):
        label = example["label"]
        known = (label >= 0) & (label < self.head.scores.count)
        weights = {"nll": known.astype(jnp.float32)}
        return Observation(self.inputs_of(example), jnp.where(known, label, 0), weights)

    def scored(self, logits, observation, train):
        nll = smoothed(logits, observation.targets, self.label_smoothing if train else 0.0)
        return cross_entropy.outcome("nll", nll, observation.weights["nll"])

    def judged(self, logits, observation):
        weights = observation.weights["nll"]
        return {"accuracy": ((logits.argmax(-1) == observation.targets) * weights, weights)}


def smoothed(logits: jax.Array, targets: jax.Array, share: float) -> jax.Array:
    """(1 - share) nll + share (mean over all classes of -log softmax), of logits [..., C] and targets int32[...]."""
    logits = wide(logits)
    nll = cross_entropy.token_nll(logits, targets)
    if not share:
        return nll
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return nll + share * (chosen - logits.mean(-1))
