"""Crops: resampling equal to Pillow's, boxes by torchvision's law."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from pretrainx.objectives import crops

DRAWS = 4000
KEYS = jax.vmap(jax.random.key)(jnp.arange(DRAWS))
LIKELY = 1e-4  # an outcome that a fair draw gives less often than this is a fault; the seeds are fixed
HEIGHT, WIDTH = 14, 17
# (top, left, height, width, size): shrunk, enlarged, as it is, one pixel, at each edge, everything.
BOXES = [(2, 3, 9, 12, 5), (4, 1, 5, 4, 8), (3, 5, 8, 8, 8), (7, 7, 1, 1, 5), (5, 9, 9, 8, 5), (0, 0, 14, 17, 5)]
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
RESIZED = jax.jit(crops.resized_crop, static_argnames=("size", "method"))


def by_pillow(picture, box, method):
    top, left, height, width, size = box
    return np.asarray(picture.crop((left, top, left + width, top + height)).resize((size, size), PILLOW[method]))


@pytest.mark.parametrize("method", PILLOW)
def test_resampling_is_pillows(method):
    """Of float pictures to rounding; of bytes to the two roundings (after rows, after columns) that Pillow makes. (It clips
    there too, so bytes from the middle of the range.)"""
    pixels = np.random.default_rng(0).random((HEIGHT, WIDTH, 3), np.float32)
    coloured = (64 + pixels * 128).astype(np.uint8)
    for *box, size in BOXES:
        found = RESIZED(pixels, np.float32(box), size, method)
        for channel in range(3):
            wanted = by_pillow(Image.fromarray(pixels[..., channel]), (*box, size), method)
            np.testing.assert_allclose(found[..., channel], wanted, atol=1e-5)
        found = np.clip(RESIZED(np.float32(coloured), np.float32(box), size, method), 0, 255)
        assert np.abs(found - by_pillow(Image.fromarray(coloured), (*box, size), method)).max() < 1.3


@pytest.mark.parametrize("method", PILLOW)
def test_nothing_outside_the_box_is_seen(method):
    """Also where the filter would reach it; a picture of one colour stays what it is."""
    for top, left, height, width, size in BOXES:
        picture = np.full((HEIGHT, WIDTH, 3), 1e6, np.float32)
        picture[top : top + height, left : left + width] = 0.25
        found = RESIZED(picture, np.float32([top, left, height, width]), size, method)
        np.testing.assert_allclose(found, 0.25, rtol=1e-6)


def test_flipped():
    pixels = np.random.default_rng(0).random((HEIGHT, WIDTH, 3), np.float32)
    box = np.float32([1, 2, 9, 7])
    straight, flipped = (RESIZED(pixels, box, 6, "bicubic", flag) for flag in (False, True))
    np.testing.assert_array_equal(flipped, straight[:, ::-1])


def boxes(height, width, *law):
    return np.stack(jax.jit(jax.vmap(lambda key: crops.random_box(key, height, width, *law)))(KEYS), 1).astype(int)


def by_the_law(height, width, area, aspect, count):
    """(height, width) of boxes as the rule says, one after the other."""
    random = np.random.default_rng(1)
    for _ in range(count):
        for _ in range(10):
            target = height * width * random.uniform(*area)
            ratio = math.exp(random.uniform(*map(math.log, aspect)))
            wide, tall = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                break
        else:
            wide, tall = width, height
        yield tall, wide


@pytest.mark.parametrize("area, aspect", [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.2, 0.5), (0.5, 2.0))])
def test_sides_of_random_boxes(area, aspect):
    """Their areas and aspects are distributed as the rule's, and their sides too."""
    found = boxes(64, 64, area, aspect)[:, 2:]
    wanted = np.array(list(by_the_law(64, 64, area, aspect, DRAWS)))
    for measure in (lambda sides: sides.prod(1), lambda sides: sides[:, 1] / sides[:, 0], lambda sides: sides[:, 0]):
        assert stats.ks_2samp(measure(found), measure(wanted)).pvalue > LIKELY
    assert abs(found.prod(1).mean() / 64**2 - (area[0] + area[1]) / 2) < 0.06


def test_random_boxes_lie_anywhere_inside():
    """Every place that a box has room for is as likely as another."""
    top, left, height, width = boxes(9, 12, (0.2, 0.4)).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 9).all() and (left + width <= 12).all()
    for start, side, room in ((top, height, 9), (left, width, 12)):
        common = np.bincount(side).argmax()
        counts = np.bincount(start[side == common], minlength=room - common + 1)
        assert len(counts) == room - common + 1 and stats.chisquare(counts).pvalue > LIKELY


def test_where_no_box_fits_the_middle_is_taken():
    np.testing.assert_array_equal(boxes(4, 40, (0.9, 1.0))[:9], [[0, 17, 4, 5]] * 9)
    np.testing.assert_array_equal(boxes(40, 4, (0.9, 1.0))[:9], [[17, 0, 5, 4]] * 9)
