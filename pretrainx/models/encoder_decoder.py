"""An encoder-decoder: one sequence is read whole, another predicted from it token by token. BART (Lewis et al. 2020) by
default, T5 (Raffel et al. 2020) and modern forms by configuration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from pretrainx.core.errors import ConfigError
from pretrainx.models.attention import Cache, RelativeBias
from pretrainx.models.layers import ACTIVATIONS, Embedding, Linear, Norm, Precision, dropout, padded, unpadded
from pretrainx.models.stack import INITIAL, Around, StackConfig
from pretrainx.models.stacked import Stack
from pretrainx.parallel.rules import constrain


@dataclass(frozen=True)
class EncoderDecoderConfig(StackConfig):
    """Sizes and habits of the encoder-decoder, beside those of StackConfig; `depth` is the encoder's.

    T5 1.1 is positions "relative", norm_first, norm "rms", norm_epsilon 1e-6, gated "gelu_tanh", no bias, not tied,
    scaled_attention False, initial "fan_in", no embedding_norm; 1.0 is "relu", not gated, tied and scaled_logits.

    Attributes:
      decoder_depth: blocks of the decoder; 0 is as many as the encoder has.
      positions: "learned" tables, "relative" biases of the scores (T5), or "rotary" turns of queries and keys.
      position_offset: the first position's row of the tables (BART 2).
      buckets, bucket_distance: numbers of a relative bias per head, and the distance from which all share the last.
      norm_first: norms at the input of each branch and once at the end (pre-LN); otherwise after each sum (post-LN).
      embedding_norm: normalise the sums of embeddings.
      scaled_attention: scores are divided by sqrt(K); T5 leaves that to its start.
      scaled_logits: what a tied head reads is divided by sqrt(D) (T5 1.0).
      initial: "normal" matrices of initial_std, or "fan_in": each by what it adds up, tables with 1 (T5).
    """

    activation: str = field(default="gelu", metadata={"choices": tuple(ACTIVATIONS)})
    decoder_depth: int = field(default=0, metadata={"min": 0})
    positions: str = field(default="learned", metadata={"choices": ("learned", "relative", "rotary")})
    position_offset: int = field(default=0, metadata={"min": 0})
    buckets: int = field(default=32, metadata={"min": 4})
    bucket_distance: int = field(default=128, metadata={"min": 4})
    norm_first: bool = False
    embedding_norm: bool = True
    scaled_attention: bool = True
    scaled_logits: bool = False
    initial: str = field(default="normal", metadata={"choices": INITIAL})

    def __post_init__(self):
        super().__post_init__()
        if self.positions == "relative" and self.bucket_distance <= self.buckets // 2:
            raise ConfigError(
                "no distance is left for the buckets that hold several",
                where="config.model.bucket_distance",
                why=f"{self.buckets // 2} of the buckets hold one distance each, the last begins at {self.bucket_distance}",
                do=f"--config.model.bucket_distance={4 * self.buckets}, as T5 has it, or fewer buckets",
            )

    @property
    def target_depth(self) -> int:
        return self.decoder_depth or self.depth

    def build(
        self, vocab_size: int, source_length: int, target_length: int, precision: Precision, predicted: int = 0
    ) -> EncoderDecoder:
        """The model of these sizes for sources and targets of so many tokens; `predicted` as EncoderDecoder has it."""
        longest = max(source_length, target_length)
        self.check(longest, precision)
        return EncoderDecoder(self, vocab_size, self.max_length or longest, precision, predicted)


@struct.dataclass
class DecodingCache:
    """The decoder's own keys and values so far, those of the source in each layer, and where the source is real."""

    own: Cache
    memory: tuple[jax.Array, jax.Array]
    source_segments: jax.Array | None


class Side(nn.Module):
    """The encoder or the decoder: positions, a stack, norms. The token table is the model's."""

    config: EncoderDecoderConfig
    depth: int
    decodes: bool
    first_site: int
    max_length: int
    precision: Precision

    def setup(self):
        config, precision = self.config, self.precision
        norm = lambda: Norm(config.norm, config.norm_epsilon, precision)
        if config.positions == "learned":
            rows = self.max_length + config.position_offset
            self.position = Embedding(rows, config.width, "position", config.table_std, precision)
        if config.positions == "relative":
            self.relative = RelativeBias(config, self.decodes, precision)
        if config.embedding_norm:
            self.embedding_norm = norm()
        self.layers = Stack(config, precision, self.depth, self.decodes, self.decodes, self.first_site)
        if config.norm_first:
            self.final_norm = norm()

    def embed(self, x: jax.Array, keys: jax.Array | None, positions: jax.Array) -> jax.Array:
        """[B, T, D] of looked-up tokens [B, T, D] at positions int32[T]."""
        config = self.config
        if config.positions == "learned":
            if x.shape[1] > self.max_length:
                raise ValueError(f"{x.shape[1]} tokens, but the position table has {self.max_length} rows")
            x = x + self.position(positions + config.position_offset)
        if config.embedding_norm:
            x = self.embedding_norm(x)
        site = self.first_site + (3 if self.decodes else 2) * self.depth
        x = dropout(x.astype(self.precision.compute), config.dropout, keys, site)
        return constrain(x, "batch", "length", "act_embed")

    def blocks(self, x: jax.Array, positions: jax.Array, around: Around, cache: Cache | None = None, memory=None):
        """([B, T, D] before the last norm, what the stack returns of its caches); keys stand at 0, 1, ..."""
        config, places = self.config, jnp.arange(x.shape[1] if cache is None else cache.key.shape[2])
        if config.positions == "relative":
            around = around.replace(bias=self.relative(positions, places, x.shape[0]))
        around = around.replace(turns=config.turns(positions[None], x.dtype))
        return self.layers(x, jnp.arange(self.depth), cache, memory, around)

    def normed(self, x: jax.Array) -> jax.Array:
        return self.final_norm(x) if self.config.norm_first else x


class EncoderDecoder(nn.Module):
    """(source int32[B, S], tokens int32[B, T]) -> logits float32[B, T, V'], V' = vocabulary padded; padded columns are masked.

    `embed` and `blocks` are the encoder's, `embed_targets`, `target_blocks`, `hidden` and `logits` the decoder's.
    `source_segments` int32[B, S] is 1 where the source is real and 0 where it is padding. `keys: key[B]` switches dropout on.
    `predicted`: only the first so many ids are; 0 is all.
    """

    config: EncoderDecoderConfig
    vocab_size: int
    max_length: int
    precision: Precision = Precision()
    predicted: int = 0

    def setup(self):
        config, precision = self.config, self.precision
        rows = padded(self.vocab_size, config.vocab_multiple)
        self.token = Embedding(rows, config.width, "vocab", config.table_std, precision)
        side = lambda depth, decodes, site: Side(config, depth, decodes, site, self.max_length, precision)
        self.encoder = side(config.depth, False, 0)
        self.decoder = side(config.target_depth, True, 2 * config.depth + 1)
        if not config.tied:
            inputs, outputs = (("embed", config.width),), (("vocab", rows),)
            self.unembed = Linear(inputs, outputs, config.head_std, False, precision, True, scale=config.readout)

    def embed(self, source: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, S, D], what the encoder's blocks read"""
        return self.encoder.embed(self.token(source), keys, jnp.arange(source.shape[1]))

    def blocks(self, x: jax.Array, keys: jax.Array | None = None, segments: jax.Array | None = None) -> jax.Array:
        """The memory [B, S, D]: the encoder's normalised output; segments: int32[B, S], as source_segments."""
        around = Around(keys=keys, segments=segments)
        return self.encoder.normed(self.encoder.blocks(x, jnp.arange(x.shape[1]), around)[0])

    def source_hidden(self, memory: jax.Array, keys: jax.Array | None, segments: jax.Array) -> jax.Array:
        """[B, S, D], what features of a source are made of: the memory is it"""
        return memory

    def embed_targets(
        self, tokens: jax.Array, keys: jax.Array | None = None, segments: jax.Array | None = None
    ) -> jax.Array:
        """[B, T, D], what the decoder's blocks read"""
        return self.decoder.embed(self.token(tokens), keys, jnp.arange(tokens.shape[1]))

    def target_blocks(
        self,
        x: jax.Array,
        memory: jax.Array,
        keys: jax.Array | None = None,
        source_segments: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D], before the last norm where norms come first"""
        around = Around(keys=keys, memory=memory, source_segments=source_segments)
        return self.decoder.blocks(x, jnp.arange(x.shape[1]), around)[0]

    def hidden(self, x: jax.Array) -> jax.Array:
        """What the head reads: [B, T, D]."""
        return self.decoder.normed(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[B, T, V'] of what `hidden` returns."""
        config = self.config
        if config.tied:
            hidden = hidden * config.tuned_width**-0.5 if config.scaled_logits else hidden
            logits = self.token.attend(hidden, config.readout)
        else:
            logits = self.unembed(hidden)
        return unpadded(constrain(logits, "batch", "length", "act_vocab"), self.predicted or self.vocab_size)

    def __call__(
        self,
        source: jax.Array,
        tokens: jax.Array,
        keys: jax.Array | None = None,
        source_segments: jax.Array | None = None,
    ) -> jax.Array:
        memory = self.blocks(self.embed(source, keys), keys, source_segments)
        x = self.target_blocks(self.embed_targets(tokens, keys, source_segments), memory, keys, source_segments)
        return self.logits(self.hidden(x))

    def start(self, memory: jax.Array, source_segments: jax.Array | None, length: int) -> DecodingCache:
        """A cache for decoding `length` tokens that has read the memory [B, S, D]: its keys and values are made once, here."""
        config, rows = self.config, memory.shape[0]
        own = self._empty(rows, 1)
        # Only what each layer makes of the memory is kept; the compiler leaves out what an empty token would go through.
        x = jnp.zeros((rows, 1, config.width), memory.dtype)
        around = Around(memory=memory, source_segments=source_segments)
        _, (_, read) = self.decoder.blocks(x, jnp.zeros(1, jnp.int32), around, own)
        return DecodingCache(self._empty(rows, length), read, source_segments)

    def decode(self, tokens: jax.Array, cache: DecodingCache) -> tuple[jax.Array, DecodingCache]:
        """(logits float32[B, T, V'], cache) of tokens int32[B, T] that follow those in the cache."""
        filled = cache.own.filled[0]
        positions = filled + jnp.arange(tokens.shape[1])
        x = self.decoder.embed(self.token(tokens), None, positions)
        around = Around(source_segments=cache.source_segments)
        x, (own, _) = self.decoder.blocks(x, positions, around, cache.own, cache.memory)
        return self.logits(self.hidden(x)), dataclasses.replace(cache, own=own)

    def _empty(self, rows: int, length: int) -> Cache:
        config = self.config
        shape = (config.target_depth, rows, length, config.shared_heads, config.head_size)
        zeros = constrain(jnp.zeros(shape, self.precision.compute), None, "batch", "length", "act_heads", None)
        return Cache(zeros, zeros, jnp.zeros(config.target_depth, jnp.int32))
