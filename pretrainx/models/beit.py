"""A vision transformer that names the tokens of hidden patches (Bao et al. 2022)."""

from __future__ import annotations

import jax
from flax import linen as nn

from pretrainx.models.layers import Linear, Precision
from pretrainx.models.vit import Vit


class TokenPredictor(nn.Module):
    """Pictures, some of whose patches are hidden -> scores of all codes for each patch.

    Attributes:
      encoder: has a mask token; its final norm is applied to all tokens.
      codes: how many there are.
    """

    encoder: Vit
    codes: int
    precision: Precision = Precision()

    def setup(self):
        config = self.encoder.config
        law = "normal" if config.initial == "xavier" else config.initial
        inputs, outputs = (("embed", config.width),), (("vocab", self.codes),)
        self.head = Linear(inputs, outputs, config.initial_std, True, self.precision, wide=True, law=law)

    def hidden(self, images: jax.Array, masked: jax.Array | None = None, keys: jax.Array | None = None) -> jax.Array:
        """[B, t + n, D], normalised; t = 1 with a class token. masked: bool[B, n], where the mask token
        stands; None: nowhere."""
        encoder = self.encoder
        return encoder.hidden(encoder.blocks(encoder.embed(images, keys, masked), keys))

    def pooled(self, hidden: jax.Array) -> jax.Array:
        return self.encoder.pooled(hidden)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32 or wider [B, k, K] of hidden patches [B, k, D]."""
        return self.head(hidden)

    def __call__(self, images: jax.Array, masked: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.logits(self.hidden(images, masked, keys)[:, int(self.encoder.config.class_token) :])
