"""The head of DINO: an MLP, a bottleneck of unit length, and products with prototypes of unit length (Caron et al. 2021)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.heads import MlpHead
from pretrainx.models.layers import Precision
from pretrainx.models.unit import unit
from pretrainx.parallel.rules import constrain


class DinoHead(nn.Module):
    """[B, D] -> float32 or wider [B, K], the cosines of the bottleneck with each of K prototypes.

    The MLP has GELUs and starts from a normal of deviation 0.02 and biases 0, as released heads were trained.

    Prototypes are columns of prototypes/kernel [bottleneck, K], divided by their length here: a weight-normed layer whose gains
    stay 1. What scales a column, such as decay, changes nothing.

    Attributes:
      widths: of the MLP's layers; the last is the bottleneck.
      prototypes: K.
      norm: between the MLP's layers, "none" or "batch".
    """

    widths: tuple[int, ...]
    prototypes: int
    norm: str = "none"
    precision: Precision = Precision()

    def setup(self):
        bias = self.norm == "none"
        self.mlp = MlpHead(self.widths, self.norm, "none", bias, self.precision, activation="gelu", std=0.02)
        self.columns = Prototypes(self.widths[-1], self.prototypes, self.precision, name="prototypes")

    def __call__(self, x: jax.Array, valid: jax.Array | None = None, train: bool = False) -> jax.Array:
        return constrain(self.columns(unit(self.mlp(x, valid, train))), "batch", None)


class Prototypes(nn.Module):
    """Products of x [B, D] with the columns of a kernel [D, K], each divided by its length."""

    width: int
    count: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initial = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("features", "classes"))
        kernel = self.param("kernel", initial, (self.width, self.count), self.precision.params)
        return jnp.matmul(x, unit(kernel, 0), precision="highest")
