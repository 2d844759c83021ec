"""Small pictures and tiny models for tests of objectives that read them."""

import functools

import jax
import numpy as np

from pretrainx.core.images import Images
from pretrainx.core.schedule import WarmupCosine
from pretrainx.data.shapes import picture
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.optim.optimizer import AdamWConfig, Optimizer
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states
from pretrainx.training.step import Options, make_train_step

SIZE = 16
IMAGES = Images(SIZE, 3, (), (0.5, 0.45, 0.4), (0.25, 0.3, 0.2))
FLOAT64 = Precision("float64", "float64")
VIT = VitConfig(width=16, depth=1, heads=2, patch=4, positions="sincos", unroll=0)
STILL = AugmentConfig("none")


@functools.cache
def shapes(rows, size=SIZE, seed=0):
    return np.stack([picture(seed, index, size)[0] for index in range(rows)])


def batch_of(rows, size=SIZE, seed=0):
    return {"image": shapes(rows, size, seed), "valid": np.ones(rows, bool)}


def trained(objective, steps, rows=32, rate=3e-3):
    """(parameters, extras, metrics of each step) after so many steps over 512 generated pictures."""
    rules = Rules(make_mesh(MeshConfig(1), jax.devices()[:1]))
    options, found = Options(rules), states.layout(objective, rows)
    optimizer = Optimizer(AdamWConfig(), WarmupCosine(rate, 10, steps), 1.0, found.params_axes)
    state = states.create(objective, optimizer, options, found, rows)
    step, metrics = make_train_step(objective, optimizer, options, state), []
    images, rng = shapes(512), np.random.default_rng(0)
    for _ in range(steps):
        state, found = step(state, {"image": images[rng.integers(0, 512, rows)], "valid": np.ones(rows, bool)})
        metrics.append({name: value for name, value in found.items() if name != "per_row"})
    return state.full_params(), state.extras, jax.device_get(metrics)
