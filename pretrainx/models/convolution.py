"""Convolutions over pictures [B, H, W, C], in the form that the platform is fast at."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.models.layers import Precision, contract
from pretrainx.parallel.rules import constrain, constrain_groups, device, row_groups

# On a CPU: with so many channels or fewer the library's convolution is slower than products; places of one product's pictures.
FEW_CHANNELS, PLACES = 64, 2048


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
    form = _for_cpu if device()[0].platform == "cpu" else _plain
    return form(x.astype(dtype), kernel.astype(dtype), stride)


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    side = (kernel.shape[0] - 1) // 2
    return _channels_last(x, kernel, [(side, side)] * 2, (stride, stride))


def _channels_last(x: jax.Array, kernel: jax.Array, padding, strides=(1, 1), spread=(1, 1)) -> jax.Array:
    """[B, H, W, I] with [h, w, I, O]: the order of dimensions that a CPU's library takes. spread: of x."""
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, spread, None, ("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _for_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """As `_plain`, and so are its gradients, in what XLA's CPU compiler is fast at, inside of loops over microbatches too.

    There the gradients that autodiff makes would run in naive code, twenty times slower: it reorders their dimensions for the
    library only outside of loops. The library's gradient of a kernel, and its convolutions of few channels, keep one core busy
    at best: these are products of matrices here.
    """
    few = x.shape[-1] <= FEW_CHANNELS
    return _by_products(x, kernel, stride) if few else _plain(x, kernel, stride)


def _forward(x, kernel, stride):
    return _for_cpu(x, kernel, stride), (x, kernel)


def _backward(stride, saved, gradient):
    x, kernel = saved
    window, side = kernel.shape[0], (kernel.shape[0] - 1) // 2
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    if stride == 1 and window % 2:
        to_x = _for_cpu(gradient, flipped, 1)
    else:
        first, reach = (
            window - 1 - side,
            [(size - 1) * stride + 1 for size in gradient.shape[1:3]],
        )  # rows, columns seen
        around = [(first, size - seen + side) for size, seen in zip(x.shape[1:3], reach, strict=True)]
        to_x = _channels_last(gradient, flipped, around, spread=(stride, stride))
    return to_x, _gradient_of_kernel(x, gradient, window, stride).astype(kernel.dtype)


_for_cpu.defvjp(_forward, _backward)


def _by_products(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Group of pictures by group: what a row of the window sees side by side in the channels, times that row of the kernel."""
    window, _, _, features = kernel.shape
    height, width = ((size + 2 * ((window - 1) // 2) - window) // stride + 1 for size in x.shape[1:3])
    rows_of_kernel = kernel.reshape(window, -1, features)

    def one(pictures):
        seen = _rows_seen(pictures, window, stride, (height, width))
        product = lambda row, weights: jnp.matmul(row, weights, preferred_element_type=_wide(x.dtype))
        return sum(map(product, seen, rows_of_kernel)).astype(x.dtype)

    return _whole(jax.lax.map(one, _groups(x, height * width)), x.shape[0])


def _gradient_of_kernel(x: jax.Array, gradient: jax.Array, window: int, stride: int) -> jax.Array:
    """[k, k, I, O] in float32 or wider: in groups again, transposed times the gradient [B, h, w, O]."""
    channels, (height, width, features) = x.shape[-1], gradient.shape[1:]
    dtype, ways = _wide(x.dtype), row_groups(x.shape[0])
    # Every device has a sum of its own, so that they meet once, behind the loop.
    apart = lambda x: constrain_groups(x.reshape(ways, -1, x.shape[-1]))

    def add(total, group):
        pictures, gradient = group
        seen = _rows_seen(pictures, window, stride, (height, width))
        # Outputs first: the library wants the left factor transposed, and the gradient is that once for all rows.
        product = lambda row: jnp.einsum("dpo,dpi->doi", apart(gradient), apart(row), preferred_element_type=dtype)
        return constrain_groups(total + jnp.stack([product(row) for row in seen], 1)), None

    start = constrain_groups(jnp.zeros((ways, window, features, window * channels), dtype))
    groups = _groups(x, height * width), _groups(gradient, height * width)
    total = jax.lax.scan(add, start, groups)[0].sum(0)
    return total.reshape(window, features, window, channels).transpose(0, 2, 3, 1)


def _wide(dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _rows_seen(x: jax.Array, window: int, stride: int, shape: tuple[int, int]) -> list[jax.Array]:
    """Of pictures [b, H, W, I] [b, h, w, k I] for each row of the window: the I channels of the k places that it lies on."""
    side, (height, width) = (window - 1) // 2, shape
    x = jnp.pad(x, [(0, 0), (side, side), (side, side), (0, 0)])
    columns = [x[:, :, first : first + (width - 1) * stride + 1 : stride] for first in range(window)]
    beside = jnp.concatenate(columns, -1)
    return [beside[:, first : first + (height - 1) * stride + 1 : stride] for first in range(window)]


def _groups(x: jax.Array, places: int) -> jax.Array:
    """[B, ...] -> [n, b, ...]: groups of which each has about PLACES of so many places a picture on every device."""
    ways = row_groups(x.shape[0])
    rows = x.shape[0] // ways
    size = max(size for size in range(1, rows + 1) if not rows % size and (size == 1 or size * places <= PLACES))
    apart = constrain_groups(x.reshape(ways, rows // size, size, *x.shape[1:]))
    return apart.swapaxes(0, 1).reshape(rows // size, ways * size, *x.shape[1:])


def _whole(x: jax.Array, rows: int) -> jax.Array:
    """Undoes `_groups`: [n, b, ...] -> [B, ...]"""
    ways, groups = row_groups(rows), x.shape[0]
    apart = constrain_groups(x.reshape(groups, ways, -1, *x.shape[2:]).swapaxes(0, 1))
    return apart.reshape(rows, *x.shape[2:])


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
    """The largest of each window, padded by (window - 1) / 2 on all sides."""
    side = (window - 1) // 2
    return nn.max_pool(x, (window, window), (stride, stride), [(side, side)] * 2)


def mean_pool(x: jax.Array) -> jax.Array:
    """[B, C] of x [B, H, W, C], summed in float32 or wider."""
    return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)
