"""Pixels as numbers: bytes, [0, 1], and what a network reads. All functions take one picture [H, W, C], or a batch of them.

float32; float64 where that is switched on, so that equality of losses in float64 does not hang on how a program was fused.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.images import Images


def unit(image: jax.Array) -> jax.Array:
    """[0, 1] of bytes 0 .. 255; floats are taken to be in [0, 1] already."""
    found = jnp.asarray(image, float)
    return found / 255 if jnp.issubdtype(image.dtype, jnp.integer) else found


def normalised(image: jax.Array, images: Images) -> jax.Array:
    """(x - mean) / std per channel, of a picture in [0, 1]."""
    return (image - np.asarray(images.mean, image.dtype)) / np.asarray(images.std, image.dtype)


def denormalised(image: jax.Array, images: Images) -> jax.Array:
    """The picture in [0, 1] whose `normalised` this is; values of a model may lie outside."""
    return image * np.asarray(images.std, image.dtype) + np.asarray(images.mean, image.dtype)


def planes(image: jax.Array, axis: int = -1) -> tuple[jax.Array, ...]:
    """One picture's channels, each [H, W]; axis is the channels', -1 or 0."""
    return tuple(jax.lax.index_in_dim(image, index, axis, keepdims=False) for index in range(image.shape[axis]))


def computed(image: jax.Array, axis: int = -1) -> jax.Array:
    """The same picture, kept in memory before anything is made of it.

    XLA on CPU fuses what is made of a picture with what made it, and repeats the latter for each channel and each mean that
    is taken: a chain of colour operations becomes up to thirty times slower. Neither barrier nor stack alone prevents it.
    """
    return jax.lax.optimization_barrier(jnp.stack(planes(image, axis), axis))
