"""Colours of a picture [H, W, C] in [0, 1], by torchvision's formulas for float tensors, each clipped to [0, 1].

`jitter` folds brightness, contrast and saturation into one blend, `_blended`: the functions of these names say what each is by
itself. Hue and solarize are dm-pix's, which has the same formulas there. (Its brightness adds, its contrast takes the mean of
each channel and its saturation is HSV's, so these are written here.) Pictures of one channel have neither hue nor saturation:
`saturation`, `hue` and `grayscale` do nothing to them.

Everywhere `axis` is the channels', -1 or 0. Random pictures are made with 0: whole planes are what a CPU can vectorise.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.objectives import pixels

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)
GREY = (0.2989, 0.587, 0.114)  # shares of red, green and blue


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blended with black."""
    return _clipped(image * factor)


def contrast(image: jax.Array, factor: jax.Array, axis: int = -1) -> jax.Array:
    """Blended with the mean of the grey picture."""
    return _clipped(factor * image + (1 - factor) * _grey(image, axis).mean())


def saturation(image: jax.Array, factor: jax.Array, axis: int = -1) -> jax.Array:
    """Blended with the grey picture."""
    if image.shape[axis] == 1:
        return image
    return _clipped(factor * image + (1 - factor) * jnp.expand_dims(_grey(image, axis), axis))


def hue(image: jax.Array, shift: jax.Array, axis: int = -1) -> jax.Array:
    """shift: in turns of the colour circle, -0.5 .. 0.5."""
    if image.shape[axis] == 1:
        return image
    import dm_pix  # not at the head: who makes no random pictures need not have it

    return _clipped(dm_pix.adjust_hue(image, shift, channel_axis=axis))


def grayscale(image: jax.Array, axis: int = -1) -> jax.Array:
    """As many channels as before, all equal."""
    return jnp.broadcast_to(jnp.expand_dims(_grey(image, axis), axis), image.shape)


def solarize(image: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Inverted where at or above the threshold."""
    import dm_pix

    return dm_pix.solarize(image, threshold)


def jitter(key: jax.Array, image: jax.Array, strengths: tuple[float, float, float, float], axis: int = -1) -> jax.Array:
    """The four operations in uniformly random order, with uniform factors: brightness, contrast and saturation in
    [max(0, 1 - strength), 1 + strength], hue's shift in [-strength, strength]."""
    order, factors = drawn(key, strengths)
    return adjusted(image, order, factors, axis)


def drawn(key: jax.Array, strengths: tuple[float, float, float, float]) -> tuple[jax.Array, jax.Array]:
    """(order int32[4] of BRIGHTNESS .. HUE, factors float32[4] by operation) of `jitter`."""
    draws = jax.random.uniform(key, (5,), jnp.float32)
    order = jnp.asarray(ORDERS)[jnp.floor(draws[4] * len(ORDERS)).astype(jnp.int32)]
    middle, strength = np.float32([1, 1, 1, 0]), np.float32(strengths)
    low = np.maximum(middle - strength, np.float32([0, 0, 0, -0.5]))
    return order, low + (middle + strength - low) * draws[:4]


def adjusted(image: jax.Array, order: jax.Array, factors: jax.Array, axis: int = -1) -> jax.Array:
    """`jitter` with a given order and given factors, both of which may be traced.

    Under vmap a switch computes all its branches: four operations at each of four places. But three of them are one, a blend
    with black, with the grey picture, or with its mean. So hue stands once, with three blends before it and three behind;
    those that the order does not ask for have the factor 1 and change nothing.
    """
    place = jnp.argmax(order == HUE)
    others = order[jnp.where(jnp.arange(3) < place, jnp.arange(3), jnp.arange(1, 4))]
    for index in range(3):
        image = _blended(image, others[index], jnp.where(index < place, factors[others[index]], 1), axis)
    image = pixels.computed(hue(image, factors[HUE], axis), axis)
    for index in range(3):
        image = _blended(image, others[index], jnp.where(index < place, 1, factors[others[index]]), axis)
    return image


def _blended(image: jax.Array, operation: jax.Array, factor: jax.Array, axis: int) -> jax.Array:
    """`brightness`, `contrast` or `saturation`."""
    grey = _grey(image, axis)
    other = jnp.where(operation == CONTRAST, grey.mean(), 0)
    if image.shape[axis] == 1:
        factor = jnp.where(operation == SATURATION, 1, factor)
    else:
        other = jnp.expand_dims(jnp.where(operation == SATURATION, grey, other), axis)
    return pixels.computed(_clipped(factor * image + (1 - factor) * other), axis)


def _grey(image: jax.Array, axis: int) -> jax.Array:
    """[H, W]"""
    found = pixels.planes(image, axis)
    if len(found) == 1:
        return found[0]
    return sum(np.float32(share) * plane for share, plane in zip(GREY, found, strict=True))


def _clipped(image: jax.Array) -> jax.Array:
    return jnp.clip(image, 0, 1)
