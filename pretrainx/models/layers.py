"""The layers that all models are made of. Every parameter is boxed with its logical axis names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from pretrainx.models import kernels
from pretrainx.parallel.rules import constrain

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # of the first CLIP
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
}
NORMS = ("layer", "rms")
# Distributions of initial values by standard deviation; the truncated one is cut at two of them, which leaves 0.88 of it.
LAWS = {
    "normal": nn.initializers.normal,
    "truncated": nn.initializers.truncated_normal,
    "uniform": lambda std: lambda key, shape, dtype: 3**0.5 * std * jax.random.uniform(key, shape, dtype, -1, 1),
}
DTYPES = ("float32", "bfloat16", "float64")


@dataclass(frozen=True)
class Precision:
    """Dtypes of stored parameters (their moments and averages too) and of matrix products.

    Norms, softmax and losses are float32 or wider in any case.
    """

    params: str = field(default="float32", metadata={"choices": DTYPES})
    compute: str = field(default="float32", metadata={"choices": DTYPES})


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a block's matrices at the start: queries, keys and values, attention's output, the MLP's two;
    `law`, one of LAWS, is the same for all."""

    query: float
    key: float
    out: float
    up: float
    down: float
    law: str = "normal"


def wide(x: jax.Array) -> jax.Array:
    """x in float32, or in float64 where it already is: the dtype of statistics."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Linear(nn.Module):
    """y = x @ kernel + bias, contracting the last `len(inputs)` axes of x.

    Attributes:
      inputs, outputs: ((logical name, size), ...) of the kernel's dimensions.
      std, law: standard deviation of the initial values, and which of LAWS they follow.
      wide: the result stays in the float32 or wider that it was accumulated in, as logits do.
      scale: the product is multiplied by it (muP's heads).

    A policy of what the backward pass keeps knows the result by the module's name.
    """

    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    std: float = 0.02
    bias: bool = True
    precision: Precision = Precision()
    wide: bool = False
    law: str = "normal"
    scale: float = 1.0

    @property
    def axes(self) -> tuple[str, ...]:
        """Logical names of the kernel, inputs first. Wrappers that add leaves beside it read them here."""
        return tuple(name for name, _ in self.inputs + self.outputs)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = tuple(size for _, size in self.inputs + self.outputs)
        initial = nn.with_logical_partitioning(LAWS[self.law](self.std), self.axes)
        kernel = self.param("kernel", initial, shape, self.precision.params)
        y = contract(x, kernel, len(self.inputs), self.precision.compute, wide=True)
        y = y if self.scale == 1 else y * self.scale
        if self.bias:
            names = tuple(name for name, _ in self.outputs)
            initial = nn.with_logical_partitioning(nn.initializers.zeros, names)
            sizes = tuple(size for _, size in self.outputs)
            # Before the rounding: its gradient is a sum over all tokens, which bfloat16 cannot add up.
            y = y + self.param("bias", initial, sizes, self.precision.params)
        y = y if self.wide else y.astype(self.precision.compute)
        return checkpoint_name(y, self.name or "linear")


def contract(x: jax.Array, kernel: jax.Array, count: int, dtype: str, wide: bool = False) -> jax.Array:
    """x [..., inputs] times kernel [inputs, outputs] over `count` axes, accumulated in float32 or wider (`wide`: left so).

    One matrix product of rank 2: the CPU's library gets the shapes it is fast at, XLA elsewhere does not mind.
    """
    kept, shape = x.shape[: x.ndim - count], kernel.shape
    inner = math.prod(shape[:count])
    y = kernels.matmul(x.reshape(*kept, inner), kernel.reshape(inner, -1), dtype)
    return (y if wide else y.astype(dtype)).reshape(*kept, *shape[count:])


class Norm(nn.Module):
    """Over the last axis, statistics in float32 or wider.

    "layer": (x - mean) / sqrt(variance + epsilon) * scale + bias; "rms": x / sqrt(mean(x^2) + epsilon) * scale.
    """

    kind: str = "layer"
    epsilon: float = 1e-5
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        boxed = nn.with_logical_partitioning
        shape = (x.shape[-1],)
        scale = self.param("scale", boxed(nn.initializers.ones, ("norm",)), shape, self.precision.params)
        y = wide(x)
        if self.kind == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.epsilon) * scale
        if self.kind == "layer":
            y = y + self.param("bias", boxed(nn.initializers.zeros, ("norm",)), shape, self.precision.params)
        return y.astype(x.dtype)


class Scale(nn.Module):
    """x times a learned factor per dimension, `start` at first (layer scale: Touvron et al. 2021, section 2)."""

    start: float
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        initial = nn.with_logical_partitioning(nn.initializers.constant(self.start), ("norm",))
        return (wide(x) * self.param("scale", initial, (x.shape[-1],), self.precision.params)).astype(x.dtype)


class Embedding(nn.Module):
    """A table [rows, width]: lookup of ids, and `attend` for an output layer tied to it."""

    rows: int
    width: int
    axis: str = "vocab"
    std: float = 0.02
    precision: Precision = Precision()

    def setup(self):
        initial = nn.with_logical_partitioning(nn.initializers.normal(self.std), (self.axis, "embed"))
        self.table = self.param("table", initial, (self.rows, self.width), self.precision.params)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """[..., width] of ids int32[...], in the parameters' dtype: the gradient is a sum over all places of an id, which
        bfloat16 cannot add up. The table is gathered over `embed` first: a lookup in a table that is split both ways makes
        XLA rematerialise it whole."""
        return constrain(self.table, self.axis, None)[ids]

    def attend(self, x: jax.Array, scale: float = 1.0) -> jax.Array:
        """Products of x [..., width] with every row, times `scale`: float32 [..., rows]."""
        y = kernels.matmul(x, self.table.T, self.precision.compute)
        return y if scale == 1 else y * scale


class Sinusoids(nn.Module):
    """Constants of the positions (Vaswani et al. 2017, section 3.5), sines then cosines, times one learned factor that is
    `start` at first."""

    width: int
    start: float
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, positions: jax.Array) -> jax.Array:
        """[..., width] of positions [...]"""
        initial = nn.with_logical_partitioning(nn.initializers.constant(self.start), ())
        factor = self.param("factor", initial, (), self.precision.params)
        half, factor = self.width // 2, wide(factor)  # bfloat16 angles lose positions past a few hundred
        angles = positions[..., None] * 10_000.0 ** (-jnp.arange(half, dtype=factor.dtype) / half)
        return factor * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None, site) -> jax.Array:
    """Zeroes entries of x [B, ...] with probability `rate` and scales the rest; as it is where keys is None.

    Row b's mask comes from keys[b] and the site (one number per dropout of the model) alone, so that it does not depend
    on microbatches or devices.
    """
    if keys is None or rate == 0.0:
        return x
    draw = lambda key: jax.random.bernoulli(jax.random.fold_in(key, site), 1.0 - rate, x.shape[1:])
    return jnp.where(jax.vmap(draw)(keys), x / (1.0 - rate), 0).astype(x.dtype)


def drop_path(x: jax.Array, rate: jax.Array, keys: jax.Array | None, site) -> jax.Array:
    """Zeroes whole rows of x [B, ...] with probability `rate` and scales the rest (stochastic depth: Huang et al. 2016);
    as it is where keys is None. Drawn as in `dropout`."""
    if keys is None:
        return x
    kept = 1.0 - rate
    drawn = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, site), kept))(keys)
    return jnp.where(drawn.reshape(-1, *[1] * (x.ndim - 1)), x / kept, 0).astype(x.dtype)


def unpadded(logits: jax.Array, real: int) -> jax.Array:
    """Logits [..., V'] with the columns from `real` on, which are padding of a table, too low to be drawn."""
    return jnp.where(jnp.arange(logits.shape[-1]) < real, logits, jnp.finfo(logits.dtype).min / 2)


def padded(size: int, multiple: int) -> int:
    """`size` rounded up to a multiple, so that tables of odd vocabularies can be sharded."""
    return -(-size // multiple) * multiple
