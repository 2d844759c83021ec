"""Where pictures and captions are compared: projections into one space, and how cosines there become logits."""

from __future__ import annotations

import jax
from flax import linen as nn

from pretrainx.models.layers import Linear, Precision
from pretrainx.parallel.rules import constrain

PROJECTIONS = ("both", "text")


class SharedSpace(nn.Module):
    """[B, D] of either side -> [B, E], and the trained scalars that make logits exp(log_scale) cosine + offset.

    Attributes:
      embedding: E.
      projection: "both" sides have a matrix, without biases (CLIP), or the "text" alone, with a bias (SigLIP).
      log_scale, offset: of the logits, at the start; without `offset` (None) nothing is added.
    """

    embedding: int
    projection: str
    log_scale: float
    offset: float | None = None
    precision: Precision = Precision()

    def setup(self):
        scalar = lambda name, start: self.param(
            name, nn.with_logical_partitioning(nn.initializers.constant(start), ()), (), self.precision.params
        )
        self.log_scale_ = scalar("log_scale", self.log_scale)
        if self.offset is not None:
            self.offset_ = scalar("offset", self.offset)

    @nn.compact
    def of_image(self, x: jax.Array) -> jax.Array:
        return constrain(x if self.projection == "text" else self._projected("image", x), "batch", None)

    @nn.compact
    def of_text(self, x: jax.Array) -> jax.Array:
        return constrain(self._projected("text", x), "batch", None)

    def _projected(self, name: str, x: jax.Array) -> jax.Array:
        inputs, outputs, bias = (("embed", x.shape[-1]),), (("features", self.embedding),), self.projection == "text"
        return Linear(inputs, outputs, x.shape[-1] ** -0.5, bias, self.precision, name=name)(x)
