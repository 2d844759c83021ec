"""A text from a text: every task as writing what a model is asked for (Raffel et al. 2020, section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.labelled import Labelled, LabelledRows
from pretrainx.core.records import Mean
from pretrainx.models.layers import Precision
from pretrainx.objectives import seq2seq
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.labelled_text import refuse_other_labels, rows_for
from pretrainx.objectives.seq2seq import Pair, Seq2Seq


@dataclass(frozen=True)
class TextToTextConfig:
    """The section `config.objective` of this task, with an encoder-decoder or a decoder that reads the source as its prefix.

    Attributes:
      begin: name of the special token that the decoder reads first: "pad" (T5), "eos" (BART).
      loss: how tokens are scored.
    """

    begin: str = "pad"
    loss: TokenLoss = TokenLoss()

    def build(self, model, about: Labelled, widths: tuple[int, int], precision: Precision) -> TextToText:
        """`model` is the section `config.model`; `widths`: tokens of a source and of a target, ends included."""
        refuse_other_labels("text_to_text", "text", about)
        about.vocabulary.require("pad", "eos", self.begin)
        network = seq2seq.built("text_to_text", model, about.vocabulary, widths, precision, segmented=False)
        form = rows_for(model, about, widths[0], widths[1])
        return TextToText(network, about.vocabulary, self.loss, form, self.begin)


@dataclass(frozen=True)
class TextToText(Seq2Seq):
    """Mean negative log-likelihood of each token of the target and of its end, given the source. As metrics "accuracy" of the
    tokens, and "exact", the share of targets all of whose tokens are the likeliest, each given those before it.

    Attributes:
      form: the rows of its data; begin_name: see `TextToTextConfig.begin`.
    """

    form: LabelledRows
    begin_name: str = "pad"

    @property
    def widths(self):
        return self.form.width, self.form.target_width

    @property
    def reads(self):
        return self.form

    @property
    def begin(self):
        return self.vocabulary.special(self.begin_name)

    def corrupt(self, key, example):
        return Pair(example["tokens"], example["length"], example["target"], example["target_length"])

    def measured(self, observation, hits):
        total, weight = self._exact(observation, hits)
        return {"exact": Mean(total.sum(dtype=float), weight.sum(dtype=float))}

    def judged(self, logits: jax.Array, observation: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        """As `LabelledText.judged`, of logits float32[B, T, V]."""
        weights = observation.weights["nll"]
        hits = logits.argmax(-1) == observation.targets
        return {"accuracy": ((hits * weights).sum(1), weights.sum(1)), "exact": self._exact(observation, hits)}

    def _exact(self, observation, hits):
        real = observation.weights["nll"] > 0
        some = real.any(1)
        return (some & (hits | ~real).all(1)).astype(jnp.float32), some.astype(jnp.float32)
