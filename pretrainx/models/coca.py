"""CoCa (Yu et al. 2022): a picture's and a caption's vector as in CLIP, and a decoder that writes the caption."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.attention import Cache
from pretrainx.models.attention_pool import AttentionPool
from pretrainx.models.dual_encoder import IMAGE_TOWERS
from pretrainx.models.layers import Linear, Norm, Precision, padded, unpadded
from pretrainx.models.shared_space import SharedSpace
from pretrainx.models.stack import Around
from pretrainx.models.stacked import Stack
from pretrainx.models.text_tower import TextTower, TextTowerConfig
from pretrainx.models.vit import VitConfig
from pretrainx.parallel.rules import constrain

POOLERS = ("parallel", "cascade", "shared")
BLOCKS = ("paper", "open_clip")


@dataclass(frozen=True)
class CocaTextConfig(TextTowerConfig):
    """The unimodal half of the text side, which is causal and has a class token; the multimodal half has its sizes too.

    Attributes:
      decoder_depth: multimodal blocks; 0 is as many as unimodal ones.
      decoder_block: a multimodal block is self-attention, cross-attention, MLP ("paper"), or has an MLP behind each attention
        and a norm of what is read ("open_clip").
    """

    pool: str = field(default="class", metadata={"choices": ("class",)})
    decoder_depth: int = field(default=0, metadata={"min": 0})
    decoder_block: str = field(default="paper", metadata={"choices": BLOCKS})

    def __post_init__(self):
        super().__post_init__()
        if not self.causal:
            raise ConfigError(
                "a caption's tokens would see those that they are to predict",
                where="config.model.text.causal",
                why="it is False, and the decoder reads what the unimodal blocks make of the tokens",
                do="--config.model.text.causal=True",
            )

    @property
    def inner_mlp(self) -> bool:
        return self.decoder_block == "open_clip"

    @property
    def memory_norm(self) -> bool:
        return self.decoder_block == "open_clip"


@dataclass(frozen=True)
class CocaConfig:
    """The section `config.model` of CoCa.

    Attributes:
      image: a ViT, of which all tokens are read; its own pooling is not used. text: unimodal and multimodal blocks.
      embedding: width E of the shared space.
      queries: how many tokens the decoder reads of a picture (256 in the paper); pooler_heads: of the poolers.
      pooler: the picture's vector is read by one query from the encoder's tokens ("parallel") or from the tokens that the
        decoder reads ("cascade"), or it is the first of `queries`, of which the decoder reads the rest ("shared", as
        open_clip's released models).
    """

    image: Any = field(
        metadata={"table": {"vit": IMAGE_TOWERS["vit"]}, "default_name": "vit"},
        default=VitConfig(class_token=False, pool="mean"),
    )
    text: CocaTextConfig = CocaTextConfig()
    embedding: int = field(default=512, metadata={"min": 1})
    queries: int = field(default=256, metadata={"min": 1})
    pooler_heads: int = field(default=8, metadata={"min": 1})
    pooler: str = field(default="cascade", metadata={"choices": POOLERS})

    def __post_init__(self):
        for wrong, what, key, why, do in (
            (
                self.pooler == "shared" and self.queries < 2,
                "the decoder would read nothing",
                "queries",
                "one query is shared by vector and decoder",
                "--config.model.queries=2 or more, or another config.model.pooler",
            ),
            (
                self.text.width % self.pooler_heads != 0,
                "the poolers' heads do not divide their width",
                "pooler_heads",
                f"{self.pooler_heads} heads, config.model.text.width is {self.text.width}",
                "choose a divisor",
            ),
        ):
            if wrong:
                raise ConfigError(what, where=f"config.model.{key}", why=why, do=do)

    @property
    def tower(self) -> Any:
        """`image` as it is built: only its tokens are used, and a head would be parameters that nothing trains."""
        return dataclasses.replace(self.image, pool="class" if self.image.class_token else "mean", pool_norm=False)

    def build(
        self,
        images: Images,
        vocabulary: Vocabulary,
        length: int,
        precision: Precision,
        size: int,
        log_scale: float,
        offset: float | None,
    ) -> Coca:
        """The model for pictures of the side `size` and captions of `length` tokens; the last two as SharedSpace has them."""
        return Coca(
            self,
            self.tower.build(images, precision, size),
            self.text.build(vocabulary, length, precision),
            log_scale,
            offset,
            precision,
            vocabulary.predicted,
        )


@struct.dataclass
class CaptionCache:
    """Keys and values of both halves' tokens so far, and (keys, values) [L, B, Q, N, K] of what is read of the picture."""

    unimodal: Cache
    own: Cache
    memory: tuple[jax.Array, jax.Array]


class Coca(nn.Module):
    """(images float[B, S, S, C], tokens int32[B, T]) -> {"image", "text": [B, E], "hidden": [B, T, D]}, hidden what `logits`
    reads.

    The text goes once through the unimodal blocks: what its class token sees there is the caption's vector, what its other
    tokens are, before any norm, goes on through the multimodal ones. A caption's vector needs no picture, and a picture's no
    caption.
    """

    config: CocaConfig
    image: nn.Module
    text: TextTower
    log_scale: float
    offset: float | None = None
    precision: Precision = Precision()
    predicted: int = 0

    def setup(self):
        config, text, precision = self.config, self.config.text, self.precision
        pool = lambda queries: AttentionPool(
            queries, text.width, config.pooler_heads, True, text.initial_std, text.norm_epsilon, precision
        )
        norm = lambda: Norm(text.norm, text.norm_epsilon, precision)
        self.pool = pool(config.queries)
        if config.pooler != "shared":
            self.pool_contrastive = pool(1)
        self.image_norm, self.final_norm = norm(), norm()
        self.space = SharedSpace(config.embedding, "both", self.log_scale, self.offset, precision)
        first_site = 2 * text.depth + 1
        self.decoder = Stack(text, precision, self.decoder_depth, causal=True, cross=True, first_site=first_site)
        inputs, outputs = (("embed", text.width),), (("vocab", padded(self.text.vocab_size, text.vocab_multiple)),)
        self.unembed = Linear(inputs, outputs, text.initial_std, False, precision, wide=True)

    @property
    def decoder_depth(self) -> int:
        return self.config.text.decoder_depth or self.config.text.depth

    def read(self, images: jax.Array, keys: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """(the picture's vector [B, D], normalised, what the decoder reads [B, Q, D])"""
        hidden = self.image.blocks(self.image.embed(images, keys), keys)  # the poolers have norms of their own
        tokens = self.pool(hidden)
        if self.config.pooler == "shared":
            tokens = self.image_norm(tokens)
            return tokens[:, 0], tokens[:, 1:]
        vector = self.pool_contrastive(tokens if self.config.pooler == "cascade" else hidden)
        return self.image_norm(vector[:, 0]), tokens

    def encode_image(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, E]"""
        return self.space.of_image(self.read(images, keys)[0])

    def encode_text(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, E]"""
        return self.space.of_text(self.text(tokens, keys)[0])

    def written(self, x: jax.Array, memory: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, T, D], normalised: unimodal states x [B, T, D] behind the multimodal blocks, which read memory [B, Q, D]."""
        around = Around(keys, memory=memory)
        return self.final_norm(self.decoder(x, jnp.arange(self.decoder_depth), None, None, around)[0])

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32[B, T, V'] of what `written` returns; padded columns are masked."""
        return unpadded(constrain(self.unembed(hidden), "batch", "length", "act_vocab"), self.predicted)

    def start(self, images: jax.Array, length: int) -> CaptionCache:
        """A cache for decoding captions of `length` tokens; the pictures [B, S, S, C] are read here, once."""
        memory, rows = self.read(images)[1], images.shape[0]
        # Only what each block makes of the memory is kept; the compiler leaves out what an empty token would go through.
        x = jnp.zeros((rows, 1, self.config.text.width), memory.dtype)
        empty = self._empty(self.decoder_depth, rows, 1)
        _, (_, read) = self.decoder(x, jnp.arange(self.decoder_depth), empty, None, Around(memory=memory))
        cache = lambda depth: self._empty(depth, rows, length)
        return CaptionCache(cache(self.config.text.depth), cache(self.decoder_depth), read)

    def decode(self, tokens: jax.Array, cache: CaptionCache) -> tuple[jax.Array, CaptionCache]:
        """(logits float32[B, T, V'], cache) of tokens int32[B, T] that follow those in the cache."""
        x, unimodal = self.text.states(tokens, cache.unimodal)
        x, (own, _) = self.decoder(x, jnp.arange(self.decoder_depth), cache.own, cache.memory, Around())
        return self.logits(self.final_norm(x)), cache.replace(unimodal=unimodal, own=own)

    def _empty(self, depth: int, rows: int, length: int) -> Cache:
        text = self.config.text
        shape = (depth, rows, length, text.shared_heads, text.head_size)
        zeros = constrain(jnp.zeros(shape, self.precision.compute), None, "batch", "length", "act_heads", None)
        return Cache(zeros, zeros, jnp.zeros(depth, jnp.int32))

    def __call__(
        self, images: jax.Array, tokens: jax.Array, keys: tuple[jax.Array, jax.Array] | None = None
    ) -> dict[str, jax.Array]:
        """keys: key[B] of the image side and of the text side, for dropout."""
        of_images, of_text = (None, None) if keys is None else keys
        vector, memory = self.read(images, of_images)
        features, x = self.text(tokens, of_text)
        hidden = self.written(x, memory, of_text)
        if self.is_initializing():
            self.logits(hidden)
        return {"image": self.space.of_image(vector), "text": self.space.of_text(features), "hidden": hidden}
