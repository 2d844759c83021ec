"""A transformer that makes one vector of a caption: the text side of CLIP (Radford et al. 2021) and SigLIP (Zhai et al.
2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.attention import Cache
from pretrainx.models.layers import ACTIVATIONS, Embedding, Norm, Precision, dropout, padded
from pretrainx.models.stack import Around, StackConfig
from pretrainx.models.stacked import Stack
from pretrainx.parallel.rules import constrain

POOLS = ("end", "last", "class")


@dataclass(frozen=True)
class TextTowerConfig(StackConfig):
    """Sizes and habits of the text tower, beside those of StackConfig (of which tied is of no use here).

    CLIP's is causal with pool "end"; SigLIP's sees both ways, padding too, with pool "last"; CoCa's is causal with pool
    "class".

    Attributes:
      causal: tokens see those before them; otherwise all tokens see all, padding included.
      pool: the caption's vector is that of the first end token, of the "last" position (padding or not), or of a learned token
        that stands behind all others and sees those that are no padding ("class").
      shifted_class_mask: the class token sees what open_clip's released weights of CoCa were trained with: the mask of padding
        one place too far to the right.
    """

    norm_epsilon: float = field(default=1e-5, metadata={"above": 0})
    activation: str = field(default="gelu", metadata={"choices": tuple(ACTIVATIONS)})
    causal: bool = True
    pool: str = field(default="end", metadata={"choices": POOLS})
    shifted_class_mask: bool = False

    def build(self, vocabulary: Vocabulary, length: int, precision: Precision) -> TextTower:
        """The tower for captions of `length` tokens. ConfigError where the vocabulary has no end or no padding."""
        vocabulary.require("eos", "pad")
        self.check(length, precision)
        length = self.max_length or length
        return TextTower(self, vocabulary.size, length, vocabulary.special("eos"), vocabulary.special("pad"), precision)


class TextTower(nn.Module):
    """tokens int32[B, T] -> (features [B, D] of the caption, hidden [B, T, D] of its tokens, not yet normalised).

    `keys: key[B]` switches dropout on. `end` and `pad` are ids; `length` is the most tokens that there are positions for.
    """

    config: TextTowerConfig
    vocab_size: int
    length: int
    end: int
    pad: int
    precision: Precision = Precision()

    def setup(self):
        config, precision = self.config, self.precision
        rows, marked = padded(self.vocab_size, config.vocab_multiple), config.pool == "class"
        table = lambda rows, axis: Embedding(rows, config.width, axis, config.initial_std, precision)
        self.token, self.position = table(rows, "vocab"), table(self.length + marked, "position")
        if marked:
            initial = nn.with_logical_partitioning(nn.initializers.normal(config.initial_std), ("embed",))
            self.class_token = self.param("class_token", initial, (config.width,), precision.params)
        self.layers = Stack(config, precision, config.depth, causal=config.causal)
        self.final_norm = Norm(config.norm, config.norm_epsilon, precision)

    @property
    def feature_width(self) -> int:
        return self.config.width

    def embed(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, T, D], with a class token [B, T + 1, D]"""
        if tokens.shape[1] > self.length:
            raise ValueError(f"{tokens.shape[1]} tokens, but there are positions for {self.length}")
        x = self.token(tokens)
        if self.config.pool == "class":
            mark = jnp.broadcast_to(self.class_token, (x.shape[0], 1, x.shape[2])).astype(x.dtype)
            x = jnp.concatenate([x, mark], 1)
        x = x + self.position(jnp.arange(x.shape[1]))
        x = dropout(x.astype(self.precision.compute), self.config.dropout, keys, 2 * self.config.depth)
        return constrain(x, "batch", "length", "act_embed")

    def blocks(self, x: jax.Array, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, T, D] of what `embed` returned, not yet normalised"""
        around = Around(keys)
        if self.config.pool == "class":
            # Real tokens come first: to hide padding from all is to hide it from the class token alone.
            mark, real = jnp.ones((tokens.shape[0], 1), jnp.int32), (tokens != self.pad).astype(jnp.int32)
            keys_real = [mark, real] if self.config.shifted_class_mask else [real, mark]
            around = around.replace(
                segments=jnp.ones(x.shape[:2], jnp.int32), key_segments=jnp.concatenate(keys_real, 1)
            )
        return self.layers(x, jnp.arange(self.config.depth), None, None, around)[0]

    def states(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """([B, T, D] not yet normalised, cache) of tokens that follow those in the cache; of a causal tower."""
        x = self.token(tokens) + self.position(cache.filled[0] + jnp.arange(tokens.shape[1]))
        numbers = jnp.arange(self.config.depth)
        x, (cache, _) = self.layers(x.astype(self.precision.compute), numbers, cache, None, Around())
        return x, cache

    def pooled(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """[B, D], normalised, of what `blocks` returned"""
        place = jnp.full(x.shape[0], x.shape[1] - 1)
        if self.config.pool == "end":
            place = (tokens == self.end).argmax(1)  # the first; a caption that was cut ends with one too
        return self.final_norm(jnp.take_along_axis(x, place[:, None, None], 1)[:, 0])

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        x = self.blocks(self.embed(tokens, keys), tokens, keys)
        return self.pooled(x, tokens), x[:, : tokens.shape[1]]
