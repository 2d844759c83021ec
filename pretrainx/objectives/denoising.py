"""Denoising: spoil a text, recover it whole (BART: Lewis et al. 2020, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Mean, TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.layers import Precision
from pretrainx.objectives import seq2seq, text_noise
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.seq2seq import Pair, Seq2Seq
from pretrainx.objectives.text_noise import TextNoise


@dataclass(frozen=True)
class Denoising(Seq2Seq):
    """Source [BOS] noise(text) [EOS], targets [BOS] text [EOS], each of at most `length` tokens; the decoder begins with EOS.

    Metrics: "accuracy"; "removed", the share of the text's tokens that the source lacks; "source_tokens" and "target_tokens",
    how many a row has.

    Attributes:
      length: tokens of a row, BOS and EOS counted.
      whole_words: spans cover words, otherwise tokens.
    """

    length: int
    noise: TextNoise
    whole_words: bool = True

    echoes = True

    @property
    def widths(self):
        return self.length, self.length

    @property
    def begin(self):
        return self.vocabulary.special("eos")

    @property
    def front(self):
        return (self.vocabulary.special("bos"),)

    @property
    def back(self):
        return (self.vocabulary.special("eos"),)

    @property
    def gaps(self):
        return {"<mask>": self.vocabulary.special("mask")}

    @property
    def reads(self):
        fields = ("length",) + ("sentences",) * self.noise.permute_sentences + ("words",) * self.whole_words
        return TextRows(self.length - 2, 0, fields)

    def corrupt(self, key, example):
        special = self.vocabulary.special
        length = seq2seq.text_length(example, special("eos"))
        text, size = text_noise.noised(
            key,
            example["tokens"],
            length,
            example.get("sentences"),
            example.get("words"),
            self.noise,
            special("mask"),
            special("pad"),
        )
        return Pair(self._framed(text, size), size + 2, self._framed(example["tokens"], length), length + 2)

    def _framed(self, text, length):
        """[BOS] the first `length` of the text [EOS], padded."""
        special, place = self.vocabulary.special, jnp.arange(self.length)
        shifted = jnp.pad(text, (1, 1))
        inside = jnp.where(place == 0, special("bos"), jnp.where(place <= length, shifted, special("pad")))
        return jnp.where(place == length + 1, special("eos"), inside).astype(jnp.int32)

    def measured(self, observation, hits):
        source, size = observation.inputs["source"], observation.inputs["source_length"]
        targets = (observation.weights["nll"] > 0).sum(1)
        rows = targets > 0
        plain = size - 2 - (source == self.vocabulary.special("mask")).sum(1)
        total = lambda counted: jnp.where(rows, counted, 0).sum(dtype=float)
        count = rows.sum(dtype=float)
        return {
            "removed": Mean(total(targets - 2 - plain), total(targets - 2)),
            "source_tokens": Mean(total(size), count),
            "target_tokens": Mean(total(targets), count),
        }


@dataclass(frozen=True)
class DenoisingConfig:
    """The section `config.objective` of this paradigm; `config.data.length` counts BOS and EOS.

    Attributes:
      infilling: share of the words that spans cover; each span becomes one mask.
      poisson: mean length of a span in words; a span of length 0 is a mask put in.
      permute_sentences: whether sentences come in a random order.
      masking, deletion: chance of each token that infilling left to become a mask, and to vanish.
      rotation: chance that a text begins at a random token.
      whole_words: spans cover words, otherwise tokens.
      loss: how tokens are scored.
    """

    infilling: float = field(default=0.3, metadata={"min": 0.0, "max": 1.0})
    poisson: float = field(default=3.0, metadata={"min": 0.0, "max": 100.0})
    permute_sentences: bool = True
    masking: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    deletion: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    rotation: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    whole_words: bool = True
    loss: TokenLoss = TokenLoss()

    def build(
        self, model, vocabulary: Vocabulary, length: int, precision: Precision, segmented: bool = False
    ) -> Denoising:
        """`model` is the section `config.model`; `length` the data's."""
        if length < 3:
            raise ConfigError(
                "the rows are too short for a text",
                where="config.data.length",
                why=f"{length}, of which BOS and EOS take two",
                do="choose longer rows",
            )
        vocabulary.require("bos", "eos", "mask")
        noise = TextNoise(
            self.infilling, self.poisson, self.permute_sentences, self.masking, self.deletion, self.rotation
        )
        return Denoising(
            seq2seq.built("denoising", model, vocabulary, (length, length), precision, segmented, alone=False),
            vocabulary,
            self.loss,
            length,
            noise,
            self.whole_words,
        )
