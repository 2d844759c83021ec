"""Gaussian blur against scipy."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from pretrainx.objectives import blur

PIXELS = np.random.default_rng(0).random((9, 12, 3), np.float32)


@pytest.mark.parametrize("sigma, side", [(0.1, 3), (0.8, 5), (2.0, 9), (2.0, 1)])
def test_as_scipy_correlates(sigma, side):
    """With the Gaussian at whole pixels and the picture mirrored about its outermost pixels; channels first or last."""
    taps = np.exp(-0.5 * (np.arange(side) - side // 2) ** 2 / sigma**2)
    wanted = PIXELS
    for axis in (0, 1):
        wanted = ndimage.correlate1d(wanted, taps / taps.sum(), axis, mode="mirror")
    blurred = jax.jit(blur.gaussian_blur, static_argnums=(2, 3))
    np.testing.assert_allclose(blurred(PIXELS, sigma, side, -1), wanted, atol=1e-6)
    np.testing.assert_allclose(
        np.moveaxis(blurred(np.moveaxis(PIXELS, -1, 0), sigma, side, 0), 0, -1), wanted, atol=1e-6
    )


def test_sides():
    """Those of SimCLR: a tenth of the picture's side, made odd by the radius."""
    assert [blur.side_of(size) for size in (8, 19, 20, 32, 39, 40, 96, 224)] == [1, 1, 3, 3, 3, 5, 9, 23]
