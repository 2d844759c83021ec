"""Two encoders whose vectors share a space: one of pictures, one of captions (CLIP: Radford et al. 2021; SigLIP: Zhai et al.
2023)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.shared_space import PROJECTIONS, SharedSpace
from pretrainx.models.text_tower import TextTower, TextTowerConfig
from pretrainx.models.vit import VitConfig

IMAGE_TOWERS = {"vit": VitConfig, "resnet": ResNetConfig}


@dataclass(frozen=True)
class DualEncoderConfig:
    """The section `config.model` of models with two encoders.

    Attributes:
      image, text: the towers; `image.name` is "vit" or "resnet".
      embedding: width E of the shared space.
      projection: which tower's vectors are multiplied by a matrix into it: "both" (CLIP, without biases) or "text" alone, with
        a bias (SigLIP, where the picture's vectors are of that width already).
    """

    image: Any = field(metadata={"table": IMAGE_TOWERS, "default_name": "vit"}, default=VitConfig())
    text: TextTowerConfig = TextTowerConfig()
    embedding: int = field(default=512, metadata={"min": 1})
    projection: str = field(default="both", metadata={"choices": PROJECTIONS})

    def build(
        self,
        images: Images,
        vocabulary: Vocabulary,
        length: int,
        precision: Precision,
        size: int,
        log_scale: float,
        offset: float | None,
    ) -> DualEncoder:
        """The model for pictures of the side `size` and captions of `length` tokens; the last two as SharedSpace has them."""
        if self.text.pool == "class":
            raise ConfigError(
                "the class token of the text tower is CoCa's",
                where="config.model.text.pool",
                why='pool is "class"',
                do="--config.model.text.pool=end or last",
            )
        image = self.image.build(images, precision, size)
        if self.projection == "text" and image.feature_width != self.embedding:
            raise ConfigError(
                "the picture's vectors are not of the width of the shared space",
                where="config.model.embedding",
                why=f"{self.embedding}, the image tower gives {image.feature_width}, and nothing projects them",
                do=f'--config.model.embedding={image.feature_width}, or --config.model.projection="both"',
            )
        text = self.text.build(vocabulary, length, precision)
        return DualEncoder(image, text, self.embedding, self.projection, log_scale, offset, precision)


class DualEncoder(nn.Module):
    """(images float[B, S, S, C], tokens int32[B, T]) -> {"image", "text"}: [B, E], not of length one yet.

    The fields are those of SharedSpace."""

    image: nn.Module
    text: TextTower
    embedding: int
    projection: str
    log_scale: float
    offset: float | None = None
    precision: Precision = Precision()

    def setup(self):
        self.space = SharedSpace(self.embedding, self.projection, self.log_scale, self.offset, self.precision)

    def encode_image(
        self, images: jax.Array, keys: jax.Array | None = None, valid: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """[B, E]; keys for dropout, valid and train for BatchNorm."""
        return self.space.of_image(self.image(images, keys, valid, train))

    def encode_text(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B, E]"""
        return self.space.of_text(self.text(tokens, keys)[0])

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        keys: tuple[jax.Array, jax.Array] | None = None,
        valid: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """keys: key[B] of each tower, for dropout."""
        of_images, of_text = (None, None) if keys is None else keys
        return {"image": self.encode_image(images, of_images, valid, train), "text": self.encode_text(tokens, of_text)}
