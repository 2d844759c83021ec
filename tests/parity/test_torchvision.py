"""Resampling, colours and blur against torchvision on float tensors; boxes against its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pretrainx.objectives import blur, colour, crops

PIXELS = np.random.default_rng(0).random((15, 18, 3), np.float32)
LIKELY = 1e-4  # an outcome that a fair draw gives less often than this is a fault; the seeds are fixed

pytestmark = pytest.mark.usefixtures("vision_reference")


def by_torchvision(name, *arguments, **options):
    """The result of `torchvision.transforms.v2.functional` on the picture."""
    import torch
    from torchvision.transforms.v2 import functional

    picture = torch.tensor(np.moveaxis(PIXELS, -1, 0).copy())
    return np.moveaxis(getattr(functional, name)(picture, *arguments, **options).numpy(), 0, -1)


@pytest.mark.parametrize("method", crops.FILTERS)
def test_resized_crop(method):
    from torchvision.transforms import InterpolationMode

    crop = jax.jit(crops.resized_crop, static_argnums=(2, 3))
    for box in [(0, 0, 15, 18), (2, 3, 9, 12), (4, 1, 5, 4), (6, 9, 1, 2), (3, 5, 7, 7)]:
        how = dict(interpolation=InterpolationMode(method), antialias=True)
        wanted = by_torchvision("resized_crop", *box, [7, 7], **how)
        np.testing.assert_allclose(crop(PIXELS, np.float32(box), 7, method), wanted, atol=2e-6, err_msg=str(box))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_adjustments(name):
    adjust = jax.jit(getattr(colour, name))
    for factor in [-0.5, -0.2, 0.0, 0.1, 0.5] if name == "hue" else [0.0, 0.4, 1.0, 1.8]:
        np.testing.assert_allclose(adjust(PIXELS, factor), by_torchvision(f"adjust_{name}", factor), atol=3e-6)


def test_grey_and_inverted():
    wanted = by_torchvision("rgb_to_grayscale", num_output_channels=3)
    np.testing.assert_allclose(colour.grayscale(PIXELS), wanted, atol=1e-6)
    np.testing.assert_allclose(colour.solarize(PIXELS), by_torchvision("solarize", 0.5), atol=1e-6)


def test_gaussian_blur():
    for side, sigma in ((3, 0.1), (5, 0.7), (9, 2.0)):
        wanted = by_torchvision("gaussian_blur", [side, side], [sigma, sigma])
        np.testing.assert_allclose(blur.gaussian_blur(PIXELS, sigma, side), wanted, atol=1e-6)


@pytest.mark.parametrize("height, width, area", [(40, 40, (0.08, 1.0)), (20, 48, (0.5, 1.0))])
def test_random_boxes(height, width, area):
    """Places, areas and aspects are distributed as torchvision draws them, where some fit at once and where some never."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    count = 1500
    torch.manual_seed(0)
    picture = torch.zeros(3, height, width)
    wanted = np.array([RandomResizedCrop.get_params(picture, area, (3 / 4, 4 / 3)) for _ in range(count)])
    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    found = np.stack(jax.jit(jax.vmap(lambda key: crops.random_box(key, height, width, area)))(keys), 1).astype(int)
    for measure in (*(lambda box, i=i: box[:, i] for i in range(4)), lambda box: box[:, 2] / box[:, 3]):
        assert stats.ks_2samp(measure(found), measure(wanted)).pvalue > LIKELY
