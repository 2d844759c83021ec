"""Features: one row for each picture, whatever the batches, the mesh and the order; the encoder is not touched."""

import jax
import numpy as np
import pytest

from evals.small_encoder import IMAGES, digits, rules, simclr
from pretrainx.evals.features import features, pixels
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import SETTINGS
from pretrainx.objectives.objective import UnknownOutput
from pretrainx.parallel.mesh import MeshConfig

VIT = VitConfig(width=16, depth=1, heads=2, patch=4)


def looked(images, mesh=MeshConfig(1), model=None, **options):
    objective, params, extras = simclr(model) if model else simclr()
    return features(objective, rules(mesh), params, extras, images, **options)


def test_batches_and_their_padding_change_nothing():
    """Also in which order and beside which others: BatchNorm is in inference mode."""
    images = digits()[0][:10]
    objective, params, extras = simclr()
    direct = objective.outputs(params, extras, {"image": images}, ("features",))["features"]
    whole = looked(images)
    assert whole.shape == (10, 16) and whole.dtype == np.float32 and whole.std(0).max() > 0
    np.testing.assert_allclose(whole, direct, atol=1e-5)
    np.testing.assert_allclose(looked(images, rows=4), whole, atol=1e-5)
    np.testing.assert_allclose(looked(images[::-1], rows=4)[::-1], whole, atol=1e-5)


def test_a_mesh_changes_nothing():
    images = digits()[0][:10]
    split = looked(images, MeshConfig(data=2, fsdp=2), rows=6)  # rounded up to 8, the last 6 of them filled up
    np.testing.assert_allclose(split, looked(images), atol=1e-5)


def test_the_encoder_is_not_touched():
    _, params, extras = simclr()
    before = jax.tree.map(np.array, (params, extras))
    looked(digits()[0][:8], augmentation=SETTINGS["probe"])
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, (params, extras)))


def test_other_layers_by_name():
    """A layer of tokens gives their mean; a name that is not known is an error."""
    images = digits()[0][:4]
    objective, params, extras = simclr(VIT)
    hidden = objective.outputs(params, extras, {"image": images}, ("hidden",))["hidden"]
    assert hidden.shape == (4, 5, 16)
    np.testing.assert_allclose(looked(images, model=VIT, layer="hidden"), hidden.mean(1), atol=1e-5)
    assert looked(images, layer="projection").shape == (4, 8)
    with pytest.raises(UnknownOutput):
        looked(images, layer="logits")


def test_crops_are_of_the_key_and_the_row():
    images = np.repeat(digits()[0][:1], 10, 0)
    see = lambda **options: looked(images, augmentation=SETTINGS["probe"], **options)
    first = see(key=jax.random.key(1))
    np.testing.assert_allclose(see(key=jax.random.key(1), rows=4), first, atol=1e-5)
    assert np.abs(first[0] - first[1]).max() > 1e-3
    assert np.abs(first - see(key=jax.random.key(2))).max() > 1e-3


def test_pixels():
    images = digits()[0][:3]
    assert pixels(images).shape == (3, IMAGES.size**2)
    assert pixels(images).max() == 1 and np.array_equal(255 * pixels(images)[1], images[1].ravel())
