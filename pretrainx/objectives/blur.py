"""Gaussian blur with a width that may be traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pretrainx.objectives import pixels


def side_of(size: int) -> int:
    """The kernel's side for pictures of this size: a tenth of it, made odd (SimCLR: 23 at 224, 3 at 32, 1 below 20)."""
    return size // 10 // 2 * 2 + 1


def gaussian_blur(image: jax.Array, sigma: jax.Array, side: int, axis: int = -1) -> jax.Array:
    """A picture [H, W, C], mirrored at its edges as torchvision does, with a kernel of side x side pixels; side is odd.

    axis: of the channels, -1 or 0.
    """
    taps = kernel(sigma, side)
    return jnp.stack([_blurred(plane, taps) for plane in pixels.planes(image, axis)], axis)


def kernel(sigma: jax.Array, side: int) -> jax.Array:
    """float[side], the Gaussian at whole pixels, summing to one."""
    offsets = jnp.arange(side, dtype=float) - side // 2
    return jax.nn.softmax(-0.5 * jnp.square(offsets / sigma))


def _blurred(plane: jax.Array, taps: jax.Array) -> jax.Array:
    """float[H, W] convolved with the taps float[side] along rows and along columns: sums of shifted planes, which a compiler
    fuses into one loop. (A convolution with a kernel for each picture of a batch is slow on every device.)"""
    side, (height, width) = taps.shape[0], plane.shape
    margin = side // 2
    padded = jnp.pad(plane, ((margin, margin), (0, 0)), mode="reflect")
    plane = sum(taps[index] * padded[index : index + height] for index in range(side))
    padded = jnp.pad(plane, ((0, 0), (margin, margin)), mode="reflect")
    return sum(taps[index] * padded[:, index : index + width] for index in range(side))
