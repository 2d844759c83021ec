"""The masked autoencoder's network: an encoder of the visible patches, a smaller decoder of all places (He et al. 2022)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.layers import LAWS, Linear, Norm, Precision, wide
from pretrainx.models.patches import sincos_table
from pretrainx.models.stack import Around
from pretrainx.models.stacked import Stack
from pretrainx.models.vit import Vit, VitConfig, xavier
from pretrainx.parallel.rules import constrain


class MaskedAutoencoder(nn.Module):
    """Pictures and the numbers of their visible patches -> pixels of all patches.

    The decoder's positions are the fixed table of sines and cosines, whatever the encoder's are; it is no parameter.

    Attributes:
      encoder: its final norm is applied to all tokens.
      decoder: sizes and habits of the decoder's stack; what it says of pictures and pooling is not used.
      grid: patches along a side, n = grid^2; pixels: numbers of a patch, P x P x C.
    """

    encoder: Vit
    decoder: VitConfig
    grid: int
    pixels: int
    precision: Precision = Precision()

    def setup(self):
        config, precision, width = self.decoder, self.precision, self.decoder.width
        self.narrow = self._dense("embed", self.encoder.feature_width, "mlp", width)
        law = "normal" if config.initial == "xavier" else config.initial
        initial = nn.with_logical_partitioning(LAWS[law](config.initial_std), ("embed",))
        self.mask_token = self.param("mask_token", initial, (width,), precision.params)
        self.layers = Stack(config, precision, config.depth, causal=False)
        self.final_norm = Norm(config.norm, config.norm_epsilon, precision)
        self.head = self._dense("embed", width, "patch", self.pixels, wide=True)

    def _dense(self, inner: str, inputs: int, outer: str, outputs: int, wide: bool = False) -> Linear:
        config = self.decoder
        std = xavier(inputs, outputs) if config.initial == "xavier" else config.initial_std
        law = config.spread(config.depth).law
        return Linear(((inner, inputs),), ((outer, outputs),), std, True, self.precision, wide, law)

    @property
    def marks(self) -> int:
        """Tokens in front of the patches: the class token, or none."""
        return int(self.encoder.config.class_token)

    def encode(self, images: jax.Array, visible: jax.Array | None = None, keys: jax.Array | None = None) -> jax.Array:
        """[B, t + k, D], normalised: the class token (t = 1 where there is one) and the visible patches int32[B, k], in their
        order; None: all of them. images: float [B, S, S, C], normalised."""
        encoder = self.encoder
        return encoder.hidden(encoder.blocks(encoder.embed(images, keys, visible=visible), keys))

    def pooled(self, hidden: jax.Array) -> jax.Array:
        return self.encoder.pooled(hidden)

    def decode(self, hidden: jax.Array, restore: jax.Array) -> jax.Array:
        """float32[B, n, P x P x C] of what `encode` returns; restore int32[B, n]: patch i is the restore[i]-th in the order in
        which the visible patches come first. It drops nothing out."""
        config, marks = self.decoder, self.marks
        y = self.narrow(hidden)
        rows, missing = y.shape[0], restore.shape[1] - (y.shape[1] - marks)
        hidden_places = jnp.broadcast_to(self.mask_token.astype(y.dtype), (rows, missing, config.width))
        body = jnp.concatenate([y[:, marks:], hidden_places], axis=1)
        body = jnp.take_along_axis(body, restore[..., None], axis=1)
        table = sincos_table(self.grid, config.width, bool(marks))
        y = wide(jnp.concatenate([y[:, :marks], body], axis=1))
        y = constrain((y + jnp.asarray(table, y.dtype)).astype(hidden.dtype), "batch", "length", "act_embed")
        y = self.layers(y, jnp.arange(config.depth), None, None, Around())[0]
        return self.head(self.final_norm(y)[:, marks:])

    def __call__(
        self, images: jax.Array, visible: jax.Array, restore: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        return self.decode(self.encode(images, visible, keys), restore)
