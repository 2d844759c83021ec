"""A class for each word of a text, by a head on its first token (Devlin et al. 2019, section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from pretrainx.core.labelled import Labelled
from pretrainx.core.records import Observation, Term
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.labelled_text import HeadConfig, LabelledText, mean_of


@dataclass(frozen=True)
class TokenClassificationConfig(HeadConfig):
    """The section `config.objective` of this task."""

    def build(self, model, about: Labelled, widths: tuple[int, int], precision: Precision) -> TokenClassification:
        """`model` is the section `config.model`; `widths`: tokens of a row, and of a target that is a text."""
        count = len(about.classes)
        unread = {"pooler": False}
        parts = self.parts("token_classification", "tags", model, about, widths[0], precision, count, **unread)
        return TokenClassification(*parts, about.vocabulary)


@dataclass(frozen=True)
class TokenClassification(LabelledText):
    """Mean negative log-likelihood of the words' classes, read at the first token of each; as metric "accuracy" the share whose
    class is the likeliest.

    Observations have targets {"tags": int32[W]} and weights {"nll": float32[W]}, 0 where no word begins.
    """

    terms = (Term("nll"),)

    def observe(self, key, example, step):
        tags = example["tags"]
        known = (tags >= 0) & (tags < self.head.scores.count)
        targets = {"tags": jnp.where(known, tags, 0)}
        return Observation(self.inputs_of(example), targets, {"nll": known.astype(jnp.float32)})

    def read(self, params, inputs, keys=None):
        hidden = self.hidden(params, inputs, keys)
        features = mean_of(hidden, self.real(inputs))
        return {"logits": self.scores(params, hidden, keys), "features": features, "hidden": hidden}

    def scored(self, logits, observation, train):
        nll = cross_entropy.token_nll(logits, observation.targets["tags"])
        return cross_entropy.outcome("nll", nll, observation.weights["nll"])

    def judged(self, logits, observation):
        weights = observation.weights["nll"]
        hits = (logits.argmax(-1) == observation.targets["tags"]) * weights
        return {"accuracy": (hits.sum(1), weights.sum(1))}
