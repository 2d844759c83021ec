"""Prefix language modelling: the beginning of a text is read as a whole, what follows is predicted (Raffel et al. 2020,
section 3.2.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation, TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import sizes
from pretrainx.models.attention import Cache
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import routing, seq2seq
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.seq2seq import Pair, Seq2Seq


@dataclass(frozen=True)
class PrefixLm(Autoregressive):
    """With a decoder: the first j tokens see each other both ways, and the tokens after them are predicted.

    j is uniform in 1 .. T - 1 for rows of T + 1 tokens; shorter rows are split by the same law of their own length.

    Attributes:
      mode: the special token in front of the row that says which objective this is (UL2: Tay et al. 2022); "" is none. It
        belongs to the prefix.
    """

    mode: str = ""

    @property
    def front(self) -> tuple[int, ...]:
        """Ids that stand before the text of a row."""
        return (self.vocabulary.special(self.mode),) if self.mode else ()

    @property
    def reads(self):
        return TextRows(self.length + 1 - len(self.front), 1, ("length",))

    def observe(self, key, example, step):
        tokens, length, front = example["tokens"], example["length"], self.front
        row = jnp.concatenate([jnp.asarray(front, jnp.int32), tokens])
        prefix = len(front) + jax.random.randint(key, (), 1, jnp.maximum(length - 1, 2), jnp.int32)
        place = jnp.arange(1, row.shape[0])
        after = (place >= prefix) & (place < len(front) + length)
        weights = {"nll": after.astype(jnp.float32), **routing.weights(self.model.config.experts)}
        return Observation({"tokens": row[:-1], "prefix": prefix}, row[1:], weights)

    def flops_per_row(self):
        """Of a causal model, and of what the tokens of a prefix see beyond: of j tokens j (j - 1) / 2 keys."""
        first, last = len(self.front) + 1, self.length - 1
        beyond = (math.comb(last + 1, 3) - math.comb(first, 3)) / (last + 1 - first)
        config = self.model.config
        return super().flops_per_row() + sizes.score_flops(config, beyond, config.depth)

    def _routed(self, run, inputs, keys):
        if "prefix" in inputs:
            inputs = inputs | {"seen": jnp.arange(inputs["tokens"].shape[1]) < inputs["prefix"][:, None]}
        return super()._routed(run, inputs, keys)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits [B, T, V]; hidden [B, T, D]; features [B, D], the mean of hidden.

        inputs: {"tokens": int32[B, T]}, the mode token among them, and "prefix" int32[B], how many of them see each other both
        ways; without it none do.
        """
        return super().outputs(params, extras, inputs, names, key, train=train)

    def cache(self, params, extras, rows, length, source=None):
        return Unread(super().cache(params, extras, rows, length + len(self.front)))

    def decode(self, params, extras, tokens, cache):
        """Tokens that are read first and together are the prefix, the mode token with them, and see each other both ways; later
        ones look back only."""
        if not isinstance(cache, Unread):
            return super().decode(params, extras, tokens, cache)
        cache, rows, added = cache.empty, tokens.shape[0], len(self.front)
        front = jnp.broadcast_to(jnp.asarray(self.front, tokens.dtype), (rows, added))
        tokens = jnp.concatenate([front, tokens], axis=1)
        seen = jnp.broadcast_to(jnp.arange(cache.key.shape[2]) < tokens.shape[1], (rows, cache.key.shape[2]))
        logits, cache = self.model.apply({"params": params}, tokens, cache, seen, method="decode")
        return logits[:, added:, : self.vocabulary.size], cache


@struct.dataclass
class Unread:
    """A cache in which nothing stands yet: what is read next is the prefix."""

    empty: Cache


@dataclass(frozen=True)
class PrefixSeq2Seq(Seq2Seq):
    """With an encoder-decoder: the first j tokens are the source, the rest the targets, j uniform in 1 .. length - 1.

    Rows have one token more than `length`, so that the longest source (the mode token counted) has `length`. The decoder
    begins with the padding token.

    Attributes:
      length: tokens of the encoder's input.
      mode: as PrefixLm has it, in front of the source.
    """

    length: int
    mode: str = ""

    @property
    def front(self):
        return (self.vocabulary.special(self.mode),) if self.mode else ()

    @property
    def widths(self):
        return self.length, self.length - len(self.front)

    @property
    def reads(self):
        return TextRows(self.length + 1 - len(self.front), 0, ("length",))

    def corrupt(self, key, example):
        tokens, length, pad = example["tokens"], example["length"], self.vocabulary.special("pad")
        front = jnp.asarray(self.front, jnp.int32)
        split = jax.random.randint(key, (), 1, jnp.maximum(length, 2), jnp.int32)
        place = jnp.arange(tokens.shape[0] - 1)
        source = jnp.concatenate([front, jnp.where(place < split, tokens[:-1], pad)])
        after = jnp.maximum(length - split, 0)
        targets = jnp.where(place < after, tokens[jnp.minimum(place + split, place.shape[0])], pad)
        return Pair(source, len(front) + split, targets, after)


@dataclass(frozen=True)
class PrefixLmConfig:
    """The section `config.objective` of this paradigm, with a decoder or an encoder-decoder.

    Attributes:
      mode: name of a special token put in front; "" for none.
      loss: how tokens are scored.
    """

    mode: str = ""
    loss: TokenLoss = TokenLoss()

    def build(
        self, model, vocabulary: Vocabulary, length: int, precision: Precision, segmented: bool = False
    ) -> PrefixLm | PrefixSeq2Seq:
        """`model` is the section `config.model`; `length` the data's T."""
        if length < 3:
            raise ConfigError(
                "the rows are too short to be split",
                where="config.data.length",
                why=f"{length}; a prefix and what follows it need 3",
                do="choose longer rows",
            )
        vocabulary.require(*([self.mode] if self.mode else []), otherwise="leave the mode out (config.objective.mode)")
        seq2seq.unsegmented("prefix_lm", segmented)
        if isinstance(model, EncoderDecoderConfig):
            widths = length, length - bool(self.mode)
            built = seq2seq.built("prefix_lm", model, vocabulary, widths, precision, segmented)
            return PrefixSeq2Seq(built, vocabulary, self.loss, length, self.mode)
        if not isinstance(model, DecoderConfig):
            raise ConfigError(
                "the objective 'prefix_lm' needs a model that predicts the next token",
                where="config.model.name",
                why=f"the section is a {type(model).__name__}",
                do="--config.model.name=decoder, or encoder_decoder",
            )
        built = model.build(vocabulary.size, length, precision, vocabulary.predicted)
        return PrefixLm(built, vocabulary, length, False, self.loss, self.mode)
