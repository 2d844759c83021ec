"""Answers that stand in a text: where they begin and where they end (SQuAD: Rajpurkar et al. 2016; Devlin et al. 2019, section
4.2)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.labelled import Labelled
from pretrainx.core.records import Observation, Term
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.labelled_text import HeadConfig, LabelledText, mean_of


@dataclass(frozen=True)
class QuestionAnsweringConfig(HeadConfig):
    """The section `config.objective` of this task.

    Attributes:
      longest: answers that are given have at most so many tokens.
    """

    longest: int = field(default=30, metadata={"min": 1})

    def build(self, model, about: Labelled, widths: tuple[int, int], precision: Precision) -> QuestionAnswering:
        """`model` is the section `config.model`; `widths`: tokens of a row, and of a target that is a text."""
        # The softmax is over tokens: what is added to the scores of all of them changes nothing.
        given = model, about, widths[0], precision, 2
        parts = self.parts("question_answering", "span", *given, bias=False, pooler=False)
        return QuestionAnswering(*parts, about.vocabulary, self.longest)


@dataclass(frozen=True)
class QuestionAnswering(LabelledText):
    """The mean of two negative log-likelihoods, of the token where an answer begins and of that where it ends, each among all
    tokens of the row but padding.

    Metrics, of the likeliest span of at most `longest` tokens of the second text: "exact", the share that are the answer, and
    "f1", the mean of 2 common / (tokens of both). Both count the rows whose answer was cut off, as misses; the loss leaves
    them out. The output "logits" is float32[B, T, 2].

    Observations have inputs with "context" bool[W], targets {"span": int32[2]} and weights {"nll": float32[]}.
    """

    longest: int = 30

    terms = (Term("nll"),)

    def observe(self, key, example, step):
        span = example["span"]
        known = (span[0] >= 0) & (span[1] >= span[0]) & (span[1] < self.form.width)
        inputs = self.inputs_of(example) | {"context": example["context"]}
        targets = {"span": jnp.where(known, span, 0)}
        return Observation(inputs, targets, {"nll": known.astype(jnp.float32)})

    def read(self, params, inputs, keys=None):
        hidden, real = self.hidden(params, inputs, keys), self.real(inputs)
        logits = self.scores(params, hidden, keys)
        # Low and finite: what is masked with infinities has gradients that are no numbers.
        logits = jnp.where(real[..., None], logits, jnp.finfo(logits.dtype).min / 2)
        return {"logits": logits, "features": mean_of(hidden, real), "hidden": hidden}

    def scored(self, logits, observation, train):
        nll = cross_entropy.token_nll(jnp.moveaxis(logits, 2, 1), observation.targets["span"]).mean(1)
        return cross_entropy.outcome("nll", nll, observation.weights["nll"])

    def judged(self, logits, observation):
        span, valid = observation.targets["span"], observation.valid.astype(jnp.float32)
        found = likeliest(logits, observation.inputs["context"], self.longest)
        known = observation.weights["nll"]
        common = jnp.minimum(found[:, 1], span[:, 1]) - jnp.maximum(found[:, 0], span[:, 0]) + 1
        sizes = (found[:, 1] - found[:, 0]) + (span[:, 1] - span[:, 0]) + 2
        f1 = 2 * jnp.maximum(common, 0) / sizes
        return {"exact": ((found == span).all(1) * known, valid), "f1": (f1 * known, valid)}


def likeliest(logits: jax.Array, context: jax.Array, longest: int) -> jax.Array:
    """int32[B, 2]: the span of 1 .. `longest` tokens whose scores of begin and end, float[B, T, 2], have the largest sum, both
    of them where context bool[B, T] is."""
    place = jnp.arange(logits.shape[1])
    fits = (place[:, None] <= place) & (place < place[:, None] + longest)
    fits = fits & context[:, :, None] & context[:, None, :]
    sums = jnp.where(fits, logits[:, :, None, 0] + logits[:, None, :, 1], -jnp.inf)
    best = sums.reshape(len(sums), -1).argmax(1)
    return jnp.stack([best // logits.shape[1], best % logits.shape[1]], 1).astype(jnp.int32)
