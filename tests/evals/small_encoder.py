"""A small SimCLR of scikit-learn's digits: an objective of pictures whose features can be looked at in a second."""

import functools

import jax
import numpy as np
import pytest

from pretrainx.core.axes import unbox
from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.simclr import SimclrConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

datasets = pytest.importorskip(
    "sklearn.datasets", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'"
)
IMAGES = Images(8, 1, tuple("0123456789"), (0.305,), (0.376,))
MODEL = ResNetConfig(stages=(1, 1), width=8)


@functools.cache
def digits():
    """(uint8[1797, 8, 8, 1], int32[1797]) in a fixed random order."""
    pixels, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images = np.round(pixels * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    return images[order], labels[order].astype(np.int32)


def rules(mesh=MeshConfig(1)):
    return Rules(make_mesh(mesh, jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor]))


@functools.cache
def simclr(model=MODEL):
    """(objective, params, extras)"""
    objective = SimclrConfig(hidden=(16,), out=8, views=AugmentConfig("grey")).build(model, IMAGES, Precision())

    @jax.jit
    def start(key):
        batch = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), objective.batch_spec(2))
        return tuple(map(unbox, objective.start(key, objective.init(key, batch), batch)))

    return objective, *start(jax.random.key(0))
