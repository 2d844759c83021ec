"""Span corruption: hide spans of a text behind sentinels, recover them in order (T5: Raffel et al. 2020, section 3.1.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Mean, TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.layers import Precision
from pretrainx.objectives import seq2seq, spans
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.seq2seq import Pair, Seq2Seq


@dataclass(frozen=True)
class SpanCorruption(Seq2Seq):
    """Sources have `length` tokens: as many tokens of text are read as fill them once their spans are hidden.

    The decoder begins with the padding token. Metrics: "accuracy" of all target tokens, and "span_accuracy", the share of
    spans all of whose tokens are the likeliest.

    Attributes:
      length: tokens of the encoder's input.
      density: share of the text that is hidden.
      mean_span: tokens of a span on average.
      mode: the special token in front of the source that says which denoiser this is (UL2: Tay et al. 2022); "" is none.
    """

    length: int
    density: float
    mean_span: float
    mode: str = ""

    @property
    def lengths(self) -> spans.SpanLengths:
        """Of full rows; the mode token is not counted."""
        raw = spans.raw_length(self.length - bool(self.mode), self.density, self.mean_span)
        return spans.lengths_of(raw, self.density, self.mean_span)

    @property
    def widths(self):
        return self.lengths.source + len(self.front), self.lengths.target

    @property
    def reads(self):
        return TextRows(self.lengths.raw, 0, ("length",))

    @property
    def front(self):
        return (self.vocabulary.special(self.mode),) if self.mode else ()

    @property
    def back(self):
        return (self.vocabulary.special("eos"),)

    @property
    def gaps(self):
        return {f"<S{index}>": token for index, token in enumerate(self.vocabulary.sentinels)}

    def corrupt(self, key, example):
        special = self.vocabulary.special
        source, source_length, targets, target_length = spans.corrupted(
            key,
            example["tokens"],
            seq2seq.text_length(example, special("eos")),
            self.density,
            self.mean_span,
            self.vocabulary.sentinels,
            special("eos"),
            special("pad"),
        )
        # Of a text of one token nothing is hidden: its target would be an end alone.
        target_length = jnp.where(target_length > 1, target_length, 0)
        source = jnp.concatenate([jnp.asarray(self.front, jnp.int32), source])
        return Pair(source, source_length + len(self.front), targets, target_length)

    def measured(self, observation, hits):
        real = observation.weights["nll"] > 0
        return {"span_accuracy": span_accuracy(observation.targets, real, hits, self.vocabulary.sentinels)}


def span_accuracy(targets: jax.Array, real: jax.Array, hits: jax.Array, sentinels: tuple[int, ...]) -> Mean:
    """The share of spans all of whose tokens are hit, sentinels and the last real token (the end) left out.

    targets int32[B, T] are spans behind sentinels; real, hits: bool[B, T].
    """
    opens = real & jnp.isin(targets, jnp.asarray(sentinels, jnp.int32))
    follows = jnp.pad(real[:, 1:], [(0, 0), (0, 1)])
    inside = real & follows & ~opens
    closes = inside & ~jnp.pad(inside[:, 1:], [(0, 0), (0, 1)])
    # Misses never get fewer: a span is hit where they are as many at its last token as at its sentinel.
    misses = jnp.cumsum(inside & ~hits, axis=1)
    whole = closes & (misses == jax.lax.cummax(jnp.where(opens, misses, 0), axis=1))
    return Mean(whole.sum(dtype=float), closes.sum(dtype=float))


@dataclass(frozen=True)
class SpanCorruptionConfig:
    """The section `config.objective` of this paradigm; `config.data.length` is the length of the encoder's input.

    Attributes:
      density: share of the text that is hidden.
      mean_span: tokens of a span on average.
      mode: name of a special token put in front of the source; "" for none.
      loss: how tokens are scored.
    """

    density: float = field(default=0.15, metadata={"above": 0, "max": 0.95})
    mean_span: float = field(default=3.0, metadata={"min": 1.0})
    mode: str = ""
    loss: TokenLoss = TokenLoss()

    def build(
        self, model, vocabulary: Vocabulary, length: int, precision: Precision, segmented: bool = False
    ) -> SpanCorruption:
        """`model` is the section `config.model`; `length` the data's."""
        raw = spans.raw_length(length - bool(self.mode), self.density, self.mean_span)
        if not raw:
            raise ConfigError(
                "the rows are too short to hide a span",
                where="config.data.length",
                why=f"{length}; a kept token, a sentinel and the end need {3 + bool(self.mode)}",
                do="choose longer rows",
            )
        full = spans.lengths_of(raw, self.density, self.mean_span)
        if full.spans > len(vocabulary.sentinels):
            raise ConfigError(
                "there are fewer sentinels than spans",
                where="config.data.sentinels",
                why=f"{len(vocabulary.sentinels)} sentinels, {full.spans} spans in {raw} tokens of text",
                do=f"--config.data.sentinels={full.spans} (T5: 100), or longer spans",
            )
        vocabulary.require(*([self.mode] if self.mode else []), otherwise="leave the mode out (config.objective.mode)")
        widths = full.source + bool(self.mode), full.target
        return SpanCorruption(
            seq2seq.built("span_corruption", model, vocabulary, widths, precision, segmented),
            vocabulary,
            self.loss,
            length,
            self.density,
            self.mean_span,
            self.mode,
        )
