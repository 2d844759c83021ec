"""A decoder-only transformer: embed, blocks, head. GPT-2 (Radford et al. 2019) by default, LLaMA (Touvron et al. 2023) by
configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.attention import Cache
from pretrainx.models.experts import ExpertsConfig, Routing
from pretrainx.models.layers import Embedding, Linear, Norm, Precision, dropout, padded, unpadded
from pretrainx.models.stack import Around, StackConfig
from pretrainx.models.stacked import Stack
from pretrainx.parallel.rules import constrain


@dataclass(frozen=True)
class DecoderConfig(StackConfig):
    """Sizes and habits of the decoder, beside those of StackConfig.

    LLaMA is positions "rotary", norm "rms", activation "silu", gated, no bias, and an untied head.

    Attributes:
      positions: "learned" table, or "rotary" turns of queries and keys.
      logit_cap: logits are cap tanh(logits / cap) (Gemma 2); 0 is off.
      window: a token sees itself and the window - 1 tokens before it; 0 sees all.
      experts: MLPs of which each token goes through a few, in the place of a block's one.
      scaled_residual: the two matrices that write into the residual stream start smaller, by 1 / sqrt(2 L) (GPT-2).
    """

    positions: str = field(default="learned", metadata={"choices": ("learned", "rotary")})
    logit_cap: float = field(default=0.0, metadata={"min": 0})
    window: int = field(default=0, metadata={"min": 0})
    scaled_residual: bool = True
    experts: ExpertsConfig = ExpertsConfig()

    def build(self, vocab_size: int, length: int, precision: Precision, predicted: int = 0) -> Decoder:
        """The decoder of these sizes for rows of `length` tokens; `predicted` as Decoder has it."""
        self.check(length, precision)
        return Decoder(self, vocab_size, self.max_length or length, precision, predicted)


class Decoder(nn.Module):
    """tokens int32[B, T] -> logits float32[B, T, V'], V' = vocabulary padded; padded columns are masked.

    `head(blocks(embed(tokens)))` is the call; the three are separate because prompts, pipelines and decoding enter there.
    `keys: key[B]` switches dropout on. `positions` int32[B, T] (default 0, 1, ...) and `segments` int32[B, T] (tokens see only
    their own) are for rows that hold several documents. `predicted`: only the first so many ids are; 0 is all.
    """

    config: DecoderConfig
    vocab_size: int
    max_length: int
    precision: Precision = Precision()
    predicted: int = 0

    def setup(self):
        config, precision = self.config, self.precision
        std = config.initial_std
        rows = padded(self.vocab_size, config.vocab_multiple)
        self.token = Embedding(rows, config.width, "vocab", std, precision)
        if config.positions == "learned":
            self.position = Embedding(self.max_length, config.width, "position", std, precision)
        self.layers = Stack(config, precision, config.depth, causal=True)
        self.final_norm = Norm(config.norm, config.norm_epsilon, precision)
        if not config.tied:
            inputs, outputs = (("embed", config.width),), (("vocab", rows),)
            self.unembed = Linear(inputs, outputs, config.head_std, False, precision, True, scale=config.readout)

    def embed(
        self, tokens: jax.Array, keys: jax.Array | None = None, positions: jax.Array | None = None, part: int = 0
    ) -> jax.Array:
        """[B, T, D]; parts of a row that are looked up apart have numbers, and dropout of their own."""
        x = self.token(tokens)
        if self.config.positions == "learned":
            if tokens.shape[1] > self.max_length:
                raise ValueError(f"{tokens.shape[1]} tokens, but the position table has {self.max_length} rows")
            x = x + self.position(jnp.arange(tokens.shape[1]) if positions is None else positions)
        x = dropout(x.astype(self.precision.compute), self.config.dropout, keys, 2 * self.config.depth + part)
        return constrain(x, "batch", "length", "act_embed")

    def blocks(
        self,
        x: jax.Array,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        seen: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D], not yet normalised. seen: bool[B, T], a prefix whose tokens see each other both ways."""
        return self.routed(x, keys, positions, segments, seen)[0]

    def routed(
        self,
        x: jax.Array,
        keys: jax.Array | None = None,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        seen: jax.Array | None = None,
        real: jax.Array | None = None,
    ) -> tuple[jax.Array, Routing | None]:
        """(what `blocks` returns, what the experts of all blocks were given, where there are any). real: bool[B, T], the tokens
        that are not padding: others are given no place with an expert."""
        positions = jnp.arange(x.shape[1])[None] if positions is None else positions
        turns = self.config.turns(positions, x.dtype)
        return self.through(x, Around(keys, turns, segments, seen, real=real))

    def through(self, x: jax.Array, around: Around, cache: Cache | None = None) -> tuple[jax.Array, Any]:
        """(x, cache) behind all blocks; without a cache (x, routing)"""
        numbers = jnp.arange(self.config.depth)
        if cache is None:
            return self.layers(x, numbers, None, None, around)
        each = cache.replace(filled=jnp.broadcast_to(cache.filled, self.config.depth))
        x, (each, _) = self.layers(x, numbers, each, None, around)
        return x, each.replace(filled=each.filled[0])

    def hidden(self, x: jax.Array) -> jax.Array:
        """The normalised output of the blocks, what the head reads and features are made of: [B, T, D]."""
        return self.final_norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[B, T, V'] of what `hidden` returns."""
        config = self.config
        logits = self.token.attend(hidden, config.readout) if config.tied else self.unembed(hidden)
        logits = constrain(logits, "batch", "length", "act_vocab")
        if config.logit_cap:
            logits = config.logit_cap * jnp.tanh(logits / config.logit_cap)
        return unpadded(logits, self.predicted or self.vocab_size)

    def head(self, x: jax.Array) -> jax.Array:
        """float32[B, T, V']"""
        return self.logits(self.hidden(x))

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.head(self.blocks(self.embed(tokens, keys), keys))

    def decode(self, tokens: jax.Array, cache: Cache, seen: jax.Array | None = None) -> tuple[jax.Array, Cache]:
        """(logits float32[B, T, V'], cache) of tokens int32[B, T] that follow those in the cache.

        seen: bool[B, S] over the places of the cache, a prefix whose tokens see each other both ways.
        """
        positions = cache.filled + jnp.arange(tokens.shape[1])[None]
        x = self.embed(tokens, None, positions)
        x, cache = self.through(x, Around(turns=self.config.turns(positions, x.dtype), seen=seen), cache)
        return self.head(x), cache

    def cache(self, rows: int, length: int) -> Cache:
        """An empty cache for `length` tokens of `rows` rows."""
        config = self.config
        shape = (config.depth, rows, length, config.shared_heads, config.head_size)
        zeros = constrain(jnp.zeros(shape, self.precision.compute), None, "batch", "length", "act_heads", None)
        return Cache(zeros, zeros, jnp.zeros((), jnp.int32))
