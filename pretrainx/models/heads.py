"""Heads that self-supervised paradigms put on a network and throw away after training."""

from __future__ import annotations

import jax
from flax import linen as nn

from pretrainx.models.batch_norm import BatchNorm
from pretrainx.models.layers import ACTIVATIONS, Linear, Precision
from pretrainx.parallel.rules import constrain

NORMS = ("none", "batch")
LAST_NORMS = ("none", "plain", "scale", "full")


class MlpHead(nn.Module):
    """Dense layers with a norm and an activation between them, and a norm after the last: [B, D] -> [B, widths[-1]].

    SimCLR's is (2048, 128) of norm "batch", last_norm "scale", no bias; MoCo 2's (2048, 128) of norm "none" with biases.

    Attributes:
      widths: of the layers' outputs.
      norm: after all layers but the last: "batch" or "none".
      last_norm: BatchNorm after the last: "none", "plain" (neither factors nor summands), "scale" (factors only) or "full".
      bias: of the dense layers; last_bias: of the last one, where the others have none.
      activation: between the layers.
      std: of a normal start; 0 is torch's, uniform within 1 / sqrt(inputs): so heads without norms keep the scale of what they
        read.
      group: rows that share BatchNorm's statistics, 0 is all; momentum, epsilon: BatchNorm's.
    """

    widths: tuple[int, ...]
    norm: str = "batch"
    last_norm: str = "none"
    bias: bool = True
    precision: Precision = Precision()
    group: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    last_bias: bool = False
    activation: str = "relu"
    std: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> jax.Array:
        """valid: bool[B], rows that count in the statistics of BatchNorm; train: whether those are made of the rows."""
        for name, value, known in (("norm", self.norm, NORMS), ("last_norm", self.last_norm, LAST_NORMS)):
            if value not in known:
                raise ValueError(f"{name} {value!r} is none of {known}")
        for index, width in enumerate(self.widths):
            last = index == len(self.widths) - 1
            kind = self.last_norm if last else {"none": "none", "batch": "full"}[self.norm]
            std, law = (self.std, "normal") if self.std else ((3 * x.shape[-1]) ** -0.5, "uniform")
            bias = self.bias or last and self.last_bias
            inputs, outputs = (("embed", x.shape[-1]),), (("features", width),)
            x = Linear(inputs, outputs, std, bias, self.precision, law=law, name=f"dense_{index}")(x)
            if kind != "none":
                scale, bias = kind != "plain", kind == "full"
                norm = BatchNorm(
                    self.momentum, self.epsilon, scale, bias, self.group, self.precision, name=f"norm_{index}"
                )
                x = norm(x, valid, train)
            # Whole on each device: left spread by the kernel's columns, gradients of the heads behind it came out wrong.
            x = constrain(x if last else ACTIVATIONS[self.activation](x), "batch", None)
        return x


class Classifier(nn.Module):
    """A network and a linear head on its features, `count` logits, whose product is multiplied by `readout`."""

    backbone: nn.Module
    count: int
    precision: Precision = Precision()
    readout: float = 1.0

    @nn.compact
    def __call__(
        self, images: jax.Array, keys: jax.Array | None = None, valid: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """{"features": [B, D], "logits": float32[B, count]}"""
        features = self.backbone(images, keys, valid, train)
        inputs, outputs = (("embed", features.shape[-1]),), (("classes", self.count),)
        head = Linear(inputs, outputs, 0.02, True, self.precision, True, scale=self.readout, name="classes")
        return {"features": features, "logits": head(features)}
