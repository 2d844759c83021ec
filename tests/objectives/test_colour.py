"""Colour operations against Pillow and the standard library; jitter's order and factors."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from pretrainx.objectives import colour

DRAWS = 2400
KEYS = jax.vmap(jax.random.key)(jnp.arange(DRAWS))
LIKELY = 1e-4  # an outcome that a fair draw gives less often than this is a fault; the seeds are fixed
BYTES = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
BYTES[0, :3] = [[0, 0, 0], [255, 255, 255], [7, 7, 7]]  # colours without a hue
PIXELS = np.float32(BYTES / 255)
NAMES = ("brightness", "contrast", "saturation", "hue")
OPERATIONS = [jax.jit(getattr(colour, name)) for name in NAMES]


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    "name, enhancer", [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")]
)
def test_as_pillow_enhances(name, enhancer, factor):
    """To its roundings: of the grey picture, of its mean, and of the result."""
    wanted = np.asarray(getattr(ImageEnhance, enhancer)(Image.fromarray(BYTES)).enhance(factor))
    np.testing.assert_allclose(255 * OPERATIONS[NAMES.index(name)](PIXELS, factor), wanted, atol=2)


def test_as_pillow_inverts_and_greys():
    picture = Image.fromarray(BYTES)
    np.testing.assert_allclose(255 * colour.solarize(PIXELS), np.asarray(ImageOps.solarize(picture, 128)), atol=1e-4)
    grey = 255 * colour.grayscale(PIXELS)
    assert grey.shape == PIXELS.shape
    for channel in range(3):
        np.testing.assert_allclose(grey[..., channel], np.asarray(ImageOps.grayscale(picture)), atol=0.6)


@pytest.mark.parametrize("shift", [-0.5, -0.13, 0.0, 0.2, 0.5])
def test_hue_turns_the_circle(shift):
    """By the standard library, pixel by pixel."""
    turned = [colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in PIXELS.reshape(-1, 3)]
    wanted = [colorsys.hsv_to_rgb((hue + shift) % 1, *rest) for hue, *rest in turned]
    np.testing.assert_allclose(np.reshape(OPERATIONS[3](PIXELS, shift), (-1, 3)), wanted, atol=2e-6)


@pytest.mark.parametrize("axis", [-1, 0])
def test_any_order(axis):
    """Folded into three blends, hue and three blends, the four are what they are one after the other."""
    factors = jnp.float32([1.4, 0.5, 1.8, 0.3])  # strong enough to be clipped, so that the order matters
    adjust = jax.jit(jax.vmap(lambda order: colour.adjusted(np.moveaxis(PIXELS, -1, axis), order, factors, axis)))
    found = np.moveaxis(adjust(colour.ORDERS), 1 + axis if axis == 0 else axis, -1)
    orders = list(itertools.permutations(range(4)))
    distinct = set()
    for order, picture in zip(orders, found, strict=True):
        wanted = PIXELS
        for number in order:
            wanted = OPERATIONS[number](wanted, factors[number])
        np.testing.assert_allclose(picture, wanted, atol=2e-6, err_msg=str(order))
        distinct.add(np.round(wanted, 4).tobytes())
    assert len(distinct) == 24


def test_one_channel():
    """Grey pictures have brightness and contrast only, in either order."""
    grey = PIXELS[..., :1]
    for unchanged in (colour.saturation(grey, 0.1), colour.hue(grey, 0.3), colour.grayscale(grey)):
        np.testing.assert_array_equal(unchanged, grey)
    factors = np.float32([1.7, 0.4, 0.1, 0.3])
    adjust = jax.jit(colour.adjusted)
    for order in colour.ORDERS[::5]:
        wanted = grey
        for number in order[order < colour.SATURATION]:
            wanted = OPERATIONS[number](wanted, factors[number])
        np.testing.assert_allclose(adjust(grey, order, factors), wanted, atol=1e-6)


def test_orders_and_factors():
    """Every order as often; factors uniform, and none below 0."""
    orders, factors = map(np.asarray, jax.jit(jax.vmap(lambda key: colour.drawn(key, (0.4, 0.2, 1.5, 0.1))))(KEYS))
    counts = np.bincount(orders @ [64, 16, 4, 1], minlength=256)
    assert (counts > 0).sum() == 24 and stats.chisquare(counts[counts > 0]).pvalue > LIKELY
    for found, (low, high) in zip(factors.T, [(0.6, 1.4), (0.8, 1.2), (0.0, 2.5), (-0.1, 0.1)], strict=True):
        assert stats.kstest(found, stats.uniform(low, high - low).cdf).pvalue > LIKELY
    assert np.abs(np.corrcoef(np.c_[factors, orders[:, :3]].T) - np.eye(7))[:4].max() < 0.1


def test_jitter_is_what_was_drawn():
    strengths = (0.8, 0.8, 0.8, 0.2)
    found = jax.jit(lambda key: colour.jitter(key, PIXELS, strengths))(KEYS[3])
    wanted = jax.jit(colour.adjusted)(PIXELS, *colour.drawn(KEYS[3], strengths))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
