"""Crops and their resampling, as Pillow and torchvision (antialias) do it on pictures that were cut out first.

A resampled crop is R x C: each output row is a weighted sum of the picture's rows, with the weights of a filter around its
centre, wider by the scale where the crop shrinks; weights outside the crop are 0 and the rest sums to one. So a crop is two
dense products of small matrices that are made of the box: static shapes, no gather.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

TRIES = 10  # of torchvision's random_box before the largest central crop


class Box(NamedTuple):
    """A crop in pixels, numbers or traced scalars; (top, left) is its first pixel."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def _bilinear(x):
    return jnp.maximum(1 - jnp.abs(x), 0)


def _bicubic(x):
    """Keys' cubic with a = -0.5."""
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


FILTERS = {"bilinear": _bilinear, "bicubic": _bicubic}


def weights(start: jax.Array, length: jax.Array, size: int, source: int, method: str) -> jax.Array:
    """float[size, source]: how much of each source pixel is in each of `size` output pixels of the crop
    [start, start + length). Each row sums to one."""
    length = jnp.asarray(length, float)
    scale = length / size
    pixels = jnp.arange(source, dtype=float) - jnp.asarray(start, float)  # 0 is the crop's first
    centres = (jnp.arange(size, dtype=float) + 0.5) * scale
    found = FILTERS[method]((pixels + 0.5 - centres[:, None]) / jnp.maximum(scale, 1))
    found = jnp.where((pixels > -0.5) & (pixels < length - 0.5), found, 0)
    return found / found.sum(1, keepdims=True)


def resized_crop(
    image: jax.Array, box: Box | tuple, size: int, method: str = "bilinear", flipped: jax.Array | bool = False
) -> jax.Array:
    """[size, size, C]: the box of a picture [H, W, C], resampled with antialiasing; not clipped (bicubic overshoots).

    flipped: whether left and right change places, a bool that may be traced.
    """
    top, left, height, width = box
    rows = weights(top, height, size, image.shape[0], method)
    columns = weights(left, width, size, image.shape[1], method)
    columns = jnp.where(flipped, columns[::-1], columns)
    exact = jax.lax.Precision.HIGHEST  # an accelerator's default would round pixels to 8 bits of mantissa
    tall = jnp.einsum("ph,hwc->cpw", rows, image, precision=exact)
    return jnp.moveaxis(jnp.einsum("cpw,ow->cpo", tall, columns, precision=exact), 0, -1)


def whole(pictures: jax.Array, size: int) -> jax.Array:
    """Pictures [B, H, W, C] in [0, 1] as they are, resampled where their side is another than `size`."""
    _, height, width, _ = pictures.shape
    if (height, width) == (size, size):
        return pictures
    resample = lambda picture: resized_crop(picture, (0, 0, height, width), size, "bicubic")
    return jnp.clip(jax.vmap(resample)(pictures), 0, 1)


def random_box(
    key: jax.Array,
    height: int,
    width: int,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """torchvision's law: the area's share uniform, the aspect (width / height) log-uniform, sides rounded to pixels; the first
    of ten tries that fits is placed uniformly. If none fits, the largest central crop with the nearest allowed aspect.
    """
    draws = jax.random.uniform(key, (2 * TRIES + 2,), jnp.float32)
    share, slant, place = draws[:TRIES], draws[TRIES:-2], draws[-2:]
    target = height * width * (area[0] + (area[1] - area[0]) * share)
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = jnp.exp(low + (high - low) * slant)
    widths = jnp.round(jnp.sqrt(target * ratio))
    heights = jnp.round(jnp.sqrt(target / ratio))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    last_height, last_width = _central(height, width, aspect)
    found = fits.any()
    tall = jnp.where(found, heights[first], jnp.float32(last_height))
    wide = jnp.where(found, widths[first], jnp.float32(last_width))
    spare = jnp.stack([height - tall, width - wide])
    # uniform over 0 .. spare; float32 draws lie below 1, their product with spare + 1 may round up to it
    start = jnp.minimum(jnp.floor(place * (spare + 1)), spare)
    top, left = jnp.where(found, start, jnp.floor(spare / 2))
    return Box(top, left, tall, wide)


def _central(height: int, width: int, aspect: tuple[float, float]) -> tuple[int, int]:
    """(height, width) of the largest crop whose aspect is allowed."""
    ratio = width / height
    if ratio < aspect[0]:
        return round(width / aspect[0]), width
    if ratio > aspect[1]:
        return height, round(height * aspect[1])
    return height, width
