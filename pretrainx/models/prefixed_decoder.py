"""A decoder that reads a source as its prefix: what an encoder-decoder is asked, answered with the parameters of a decoder."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from pretrainx.core.errors import ConfigError
from pretrainx.models.attention import Cache
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.stack import Around


def built(
    config: DecoderConfig,
    vocab_size: int,
    source_length: int,
    target_length: int,
    precision: Precision,
    predicted: int = 0,
) -> PrefixedDecoder:
    """The decoder of these sizes for rows of a source and what follows it, as EncoderDecoderConfig.build has it."""
    if config.window:
        raise ConfigError(
            "a source is read as a whole",
            where="config.model.window",
            why=f"it is {config.window}: what stands further back is not seen",
            do="--config.model.window=0",
        )
    length = source_length + target_length
    config.check(length, precision)
    return PrefixedDecoder(config, vocab_size, config.max_length or length, precision, predicted)


@struct.dataclass
class PrefixedCache:
    """Keys and values of a source of S places and of what follows it; segments int32[B, S], 1 where the source is real."""

    rows: Cache
    segments: jax.Array


class PrefixedDecoder(Decoder):
    """(source int32[B, S], tokens int32[B, T]) -> logits float32[B, T, V'], as EncoderDecoder has it.

    A row is the source, whose real tokens see each other both ways, and the tokens behind it, which see the source and what
    stands before them. Tokens follow the last real one of the source: padding has no positions (UL2 with a decoder alone:
    Tay et al. 2022, section 3.2).
    """

    def embed_targets(self, tokens: jax.Array, keys: jax.Array | None, segments: jax.Array) -> jax.Array:
        """[B, T, D], what stands behind a source"""
        length = segments.shape[1] + tokens.shape[1]
        if self.config.positions == "learned" and length > self.max_length:
            raise ValueError(
                f"source and targets of {length} tokens, but the position table has {self.max_length} rows"
            )
        return self.embed(tokens, keys, _behind(segments, jnp.arange(tokens.shape[1])), part=1)

    def blocks(self, x: jax.Array, keys: jax.Array | None = None, segments: jax.Array | None = None) -> jax.Array:
        """The memory [B, S, D] is the source as it was looked up: the blocks read it with what follows."""
        return x

    def source_hidden(self, memory: jax.Array, keys: jax.Array | None, segments: jax.Array) -> jax.Array:
        """[B, S, D], what the blocks make of a source alone"""
        around = Around(keys, self._turns(segments, 0, memory), segments, segments > 0)
        return self.hidden(self.through(memory, around)[0])

    def target_blocks(
        self, x: jax.Array, memory: jax.Array, keys: jax.Array | None, source_segments: jax.Array
    ) -> jax.Array:
        """[B, T, D], before the last norm"""
        rows, length = x.shape[:2]
        read = jnp.ones((rows, length), source_segments.dtype)
        segments, seen = (jnp.concatenate([source_segments, each], 1) for each in (read, 0 * read))
        around = Around(keys, self._turns(source_segments, length, x), segments, seen > 0)
        return self.through(jnp.concatenate([memory, x], 1), around)[0][:, -length:]

    def start(self, memory: jax.Array, source_segments: jax.Array, length: int) -> PrefixedCache:
        """A cache for decoding `length` tokens that has read the source."""
        rows, width = source_segments.shape
        empty = self.cache(rows, width + length)
        keys = jnp.pad(source_segments, [(0, 0), (0, length)])
        around = Around(
            turns=self._turns(source_segments, 0, memory), segments=source_segments, seen=keys > 0, key_segments=keys
        )
        return PrefixedCache(self.through(memory, around, empty)[1], source_segments)

    def decode(self, tokens: jax.Array, cache: PrefixedCache) -> tuple[jax.Array, PrefixedCache]:
        """(logits float32[B, T, V'], cache) of tokens int32[B, T] that follow those in the cache."""
        width, (rows, length) = cache.segments.shape[1], tokens.shape
        positions = _behind(cache.segments, cache.rows.filled - width + jnp.arange(length))
        x = self.embed(tokens, None, positions)
        places = cache.rows.key.shape[2]
        keys = jnp.pad(cache.segments, [(0, 0), (0, places - width)], constant_values=1)
        around = Around(
            turns=self.config.turns(positions, x.dtype),
            segments=jnp.ones((rows, length), keys.dtype),
            key_segments=keys,
        )
        x, after = self.through(x, around, cache.rows)
        return self.head(x), dataclasses.replace(cache, rows=after)

    def __call__(
        self,
        source: jax.Array,
        tokens: jax.Array,
        keys: jax.Array | None = None,
        source_segments: jax.Array | None = None,
    ) -> jax.Array:
        segments = jnp.ones_like(source) if source_segments is None else source_segments
        memory = self.blocks(self.embed(source, keys), keys, segments)
        return self.head(self.target_blocks(self.embed_targets(tokens, keys, segments), memory, keys, segments))

    def _turns(self, segments: jax.Array, behind: int, x: jax.Array):
        """The angles of a source and of `behind` tokens that follow it."""
        source = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
        positions = jnp.concatenate([source, _behind(segments, jnp.arange(behind))], 1)
        return self.config.turns(positions, x.dtype)


def _behind(segments: jax.Array, numbers: jax.Array) -> jax.Array:
    """int32[B, T], the positions of tokens number int32[T] behind the real ones of sources with these segments."""
    return segments.sum(1, dtype=jnp.int32)[:, None] + numbers
