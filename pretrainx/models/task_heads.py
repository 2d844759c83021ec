"""Heads that a downstream task puts on a pretrained model of text: they stand beside its parameters, under the name "task"."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.layers import Linear, Precision, dropout, wide
from pretrainx.parallel.rules import constrain

NAME = "task"
KINDS = ("linear", "dense")
SITE = 1 << 20  # of its dropout: far above the sites of any model


class Scores(nn.Module):
    """[..., D] -> float32[..., count]: dropout and a linear layer; "dense": dropout, dense, tanh before them (RoBERTa's head).

    Attributes:
      std: of the matrices' normal start.
      bias: of the last layer.
      wider: m of the model that they read (muP: StackConfig.base_width).
    """

    count: int
    kind: str = "linear"
    dropout: float = 0.0
    std: float = 0.02
    precision: Precision = Precision()
    bias: bool = True
    wider: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """keys: key[B], switches dropout on."""
        width = x.shape[-1]
        whole = lambda x: constrain(x, "batch", *[None] * (x.ndim - 1))
        if self.kind == "dense":
            x = dropout(x, self.dropout, keys, SITE)
            std = self.std * self.wider**-0.5
            x = Linear((("embed", width),), (("mlp", width),), std, True, self.precision, name="dense")(x)
            # Whole on each device: left spread by the kernel's columns, gradients of the layer behind it came out wrong.
            x = jnp.tanh(wide(whole(x))).astype(x.dtype)
        x = dropout(x, self.dropout, keys, SITE + 1)
        outputs = (("classes", self.count),)
        scale = 1.0 / self.wider
        inputs = (("embed", width),)
        return Linear(inputs, outputs, self.std, self.bias, self.precision, True, scale=scale, name="classes")(x)


class TaskHead(nn.Module):
    """`Scores` as the child "task" of a module that stands where the pretrained model does: wrappers see its path as the tree
    of parameters has it."""

    scores: Scores

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        return self.scores.clone(name=NAME, parent=self)(x, keys)
