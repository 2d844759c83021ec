"""Convolutions over pictures [B, H, W, C], in the form that the platform is fast at."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.layers import Precision, contract
from pretrainx.parallel.rules import constrain, device


class Convolution(nn.Module):
    """Without bias, padded by (window - 1) / 2 on all sides as torch does: [B, H, W, I] -> [B, H / stride, W / stride, O].

    The start is He et al.'s (2015) by outputs: Normal(0, sqrt(2 / (window^2 O))).
    """

    features: int
    window: int = 3
    stride: int = 1
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, shape = self.window, (self.window, self.window, x.shape[-1], self.features)
        initial = nn.initializers.normal((2 / (window * window * self.features)) ** 0.5)
        boxed = nn.with_logical_partitioning(initial, (None, None, "channels", "features"))
        # Stored in shards and gathered where it is used: partitioned by channels, its gradient came out wrong.
        kernel = constrain(self.param("kernel", boxed, shape, self.precision.params), None, None, None, None)
        return constrain(convolve(x, kernel, self.stride, self.precision), "batch", None, None, None)


def convolve(x: jax.Array, kernel: jax.Array, stride: int, precision: Precision) -> jax.Array:
    """x [B, H, W, I] with kernel [k, k, I, O], operands and result in the compute dtype, padded by (k - 1) / 2."""
    window, dtype = kernel.shape[0], precision.compute
    if window == 1:
        return contract(x[:, ::stride, ::stride], kernel[0, 0], 1, dtype)
    form = _explicit if device()[0].platform == "cpu" else _plain
    return form(x.astype(dtype), kernel.astype(dtype), stride)


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    side = (kernel.shape[0] - 1) // 2
    return _channels_last(x, kernel, [(side, side)] * 2, (stride, stride))


def _channels_last(
    x: jax.Array, kernel: jax.Array, padding, strides=(1, 1), spread=(1, 1), dilation=(1, 1)
) -> jax.Array:
    """[B, H, W, I] with [h, w, I, O]: the order of dimensions that a CPU's library takes. spread: of x; dilation: of kernel."""
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, spread, dilation, names)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _explicit(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """As `_plain`, but both gradients are convolutions in the same order of dimensions as the forward one.

    Autodiff leaves it to XLA to reorder theirs, which its CPU compiler does in straight programs and not inside of loops such
    as those over microbatches: there the gradients would run in naive code, twenty times slower.
    """
    return _plain(x, kernel, stride)


def _explicit_forward(x, kernel, stride):
    return _plain(x, kernel, stride), (x, kernel)


def _explicit_backward(stride, saved, gradient):
    x, kernel = saved
    window, side = kernel.shape[0], (kernel.shape[0] - 1) // 2
    strides, reach = (
        (stride, stride),
        [(size - 1) * stride + 1 for size in gradient.shape[1:3]],
    )  # rows and columns seen
    first = window - 1 - side
    around = [(first, size - seen + side) for size, seen in zip(x.shape[1:3], reach, strict=True)]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    to_x = _channels_last(gradient, flipped, around, spread=strides)
    # Channels of x are the batch, rows of the batch the channels, and the window slides over what it has seen.
    around = [(side, window - 1 - side + seen - size) for size, seen in zip(x.shape[1:3], reach, strict=True)]
    by_channel, by_place = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    to_kernel = _channels_last(by_channel, by_place, around, dilation=strides)
    return to_x, to_kernel.transpose(1, 2, 0, 3)


_explicit.defvjp(_explicit_forward, _explicit_backward)


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
    """The largest of each window, padded by (window - 1) / 2 on all sides."""
    side = (window - 1) // 2
    return nn.max_pool(x, (window, window), (stride, stride), [(side, side)] * 2)


def mean_pool(x: jax.Array) -> jax.Array:
    """[B, C] of x [B, H, W, C], summed in float32 or wider."""
    return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)
