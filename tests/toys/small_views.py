"""The smallest objectives of two views, and runs of them."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pretrainx.core.images import Images
from pretrainx.core.records import Observation
from pretrainx.models.batch_norm import BatchNorm
from pretrainx.models.layers import Linear, Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from toys.small import RATE, Small

ROWS, SIZE = 8, 8
IMAGES = Images(SIZE, 1, (), (0.5,), (0.25,))
RESNET = ResNetConfig((1,), width=4)
VIT = VitConfig(width=8, depth=1, heads=2, patch=4)
WIDE = Precision("float64", "float64")
# Cheap, and different for each key.
FLIPPED = AugmentConfig("none", flip=0.5)


class Flat(nn.Module):
    """Pixels -> dense -> BatchNorm or none -> ReLU: a backbone that compiles at once."""

    width: int = 6
    group: int = -1  # rows of BatchNorm's groups, 0 all; -1 no BatchNorm

    @nn.compact
    def __call__(self, images, keys=None, valid=None, train=False):
        pixels = images.reshape(len(images), -1)
        inputs = (("patch", pixels.shape[1]),)
        x = Linear(inputs, (("embed", self.width),), 0.2, True, WIDE)(pixels.astype("float64"))
        if self.group >= 0:
            x = BatchNorm(group=self.group, precision=WIDE, name="norm")(x, valid, train)
        return nn.relu(x)


def batch(rows=ROWS, seed=0, invalid=()):
    image = np.random.default_rng(seed).integers(0, 256, (rows, SIZE, SIZE, 1)).astype(np.uint8)
    return {"image": image, "valid": ~np.isin(np.arange(rows), invalid)}


def build(config, backbone=Flat()):
    """The objective of a config with a backbone of its own: a Flat, or the section of a model."""
    if not isinstance(backbone, Flat):
        return config.build(backbone, IMAGES, WIDE)
    objective = config.build(VIT, IMAGES, WIDE)
    return replace(objective, model=objective.model.clone(backbone=backbone))


@dataclass
class Run:
    """The states before the first step and after each, and the metrics of each, on the host."""

    states: list
    metrics: list

    @property
    def gradient(self):
        """Of the first step of plain descent."""
        old, new = self.states[0].params, self.states[1].params
        return jax.tree.map(lambda old, new: (old - new) / RATE, old, new)


def run(objective, steps=1, rows=ROWS, invalid=(), **options):
    made = Small(objective, rows, **options)
    found = Run([jax.tree.map(np.array, made.state)], [])
    for step in range(steps):
        made.state, measured = made.train(made.state, batch(rows, step, invalid))
        found.states.append(jax.tree.map(np.array, made.state))
        found.metrics.append(jax.tree.map(np.array, measured))
    return found


def observed(objective, given, step=0):
    """An observation of a batch with fixed keys."""
    keys = jax.random.split(jax.random.key(0), len(given["valid"]))
    return objective.observe_rows(keys, given, step)


def of_views(views, valid=None, weights=None):
    """An observation made of these pictures, (float[B, S, S, C], ...)."""
    valid = np.ones(len(views[0]), bool) if valid is None else valid
    return Observation({"views": tuple(views)}, {}, weights, jnp.asarray(valid))


def distance(a, b):
    """Largest difference of two trees."""
    return max(np.abs(np.asarray(x, np.float64) - y).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
