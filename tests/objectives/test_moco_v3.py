"""MoCo v3: the loss by hand, the teacher's momentum, what is frozen, and that microbatches do not change it."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Cosine
from pretrainx.models.layers import Precision
from pretrainx.models.unit import unit
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.moco_v3 import MocoV3Config
from toys.small_views import FLIPPED, IMAGES, RESNET, ROWS, VIT, build, distance, of_views, run

CONFIG = MocoV3Config(momentum=0.5, momentum_steps=4, hidden=5, out=4, head_norm="none", first=FLIPPED, second=FLIPPED)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@functools.lru_cache
def runs(microbatches):
    return run(build(CONFIG), 2, microbatches=microbatches, invalid=(2,))


def coupled(found, valid=None):
    weights = {"info_nce": jnp.ones(ROWS) if valid is None else valid * 1.0}
    observation = of_views((np.zeros((ROWS, 1)),), valid, weights)
    return build(CONFIG).couple({}, {}, found, observation, 0).totals["info_nce"]


# Queries, keys, and projections of both views.
NAMES = ("q1", "q2", "k1", "k2", "z1", "z2")


def test_loss_by_hand():
    found = dict(zip(NAMES, unit(RNG.standard_normal((6, ROWS, 5))), strict=True))
    expected = 0
    for query, key in (("q1", "k2"), ("q2", "k1")):
        logits = np.asarray(found[query] @ found[key].T) / 0.2
        expected += 2 * 0.2 * (np.log(np.exp(logits).sum(1)) - np.diag(logits)).sum()
    np.testing.assert_allclose(coupled(found), expected, rtol=1e-12)
    swapped = found | {"q1": found["q2"], "q2": found["q1"], "k1": found["k2"], "k2": found["k1"]}
    np.testing.assert_allclose(coupled(swapped), expected, rtol=1e-12)


def test_rows_that_are_not_valid_are_no_keys():
    found = dict(zip(NAMES, unit(RNG.standard_normal((6, ROWS, 5))), strict=True))
    valid = np.arange(ROWS) != 3
    other = {name: z.at[3].set(unit(jnp.ones(5))) for name, z in found.items()}
    np.testing.assert_allclose(coupled(found, valid), coupled(other, valid), rtol=1e-12)
    assert abs(coupled(found) - coupled(other)) > 0.01


def test_microbatches_change_nothing():
    """Loss, gradient, teacher and monitors of 1 and 4 microbatches, by an encoder without BatchNorm."""
    whole, parts = runs(1), runs(4)
    assert distance(parts.gradient, whole.gradient) < 1e-9
    assert distance(parts.metrics, whole.metrics) < 1e-9
    assert distance(parts.states[-1].extras, whole.states[-1].extras) < 1e-9


def test_teacher():
    """Before step t it has moved towards that step's parameters with that step's momentum; it has no predictor."""
    states = runs(1).states
    assert states[0].extras["teacher"].keys() == {"backbone", "projector"}
    teacher = {name: states[0].params[name] for name in ("backbone", "projector")}
    for step, state in enumerate(states[1:], 1):
        m = float(Cosine(0.5, 1.0, 4)(step))
        online = {name: state.params[name] for name in teacher}
        teacher = jax.tree.map(lambda old, new, m=m: m * old + (1 - m) * new, teacher, online)
        assert distance(state.extras["teacher"], teacher) < 1e-12
    np.testing.assert_allclose(Cosine(0.5, 1.0, 4)(np.array([0, 2, 4])), [0.5, 0.75, 1])


def test_no_gradient_to_the_keys():
    found = dict(zip(NAMES, unit(RNG.standard_normal((6, ROWS, 5))), strict=True))
    gradient = jax.grad(coupled)(found)
    assert np.abs(gradient["q1"]).max() > 0 and np.abs(gradient["q2"]).max() > 0
    assert np.abs(gradient["k1"]).max() == np.abs(gradient["k2"]).max() == 0


def test_heads_go_by_the_model():
    """Three layers and a norm after the predictor for a ViT, two and none for a ResNet; the ViT's patches are not trained."""
    config = MocoV3Config(momentum_steps=10)
    vit, resnet = (config.build(model, IMAGES, Precision()) for model in (VIT, RESNET))
    assert vit.model.projector.widths == (4096, 4096, 256) and resnet.model.projector.widths == (4096, 256)
    assert vit.model.predictor.widths == resnet.model.predictor.widths == (4096, 256)
    assert (vit.model.predictor.last_norm, resnet.model.predictor.last_norm) == ("plain", "none")
    assert (vit.temperature, resnet.temperature) == (0.2, 1.0)
    assert not vit.trains("backbone/patches/kernel") and vit.trains("backbone/layers/attention/query/kernel")


def test_what_is_refused():
    with pytest.raises(ConfigError, match="run's length"):
        MocoV3Config().build(VIT, IMAGES, Precision())
    assert MocoV3Config().over(7).momentum_steps == 7 and CONFIG.over(7) == CONFIG
    sizes = MocoV3Config(momentum_steps=1, second=AugmentConfig("none", size=4))
    with pytest.raises(ConfigError, match="different sizes"):
        sizes.build(VIT, IMAGES, Precision())


def test_crops_go_by_the_model():
    """From 0.08 of the area for a ViT, from 0.2 for a ResNet (there too, if the config says so)."""
    least = lambda config, model: [view.crop[0] for view in config.build(model, IMAGES, Precision()).augmentations]
    config = MocoV3Config(momentum_steps=1)
    assert least(config, VIT) == [0.08, 0.08] and least(config, RESNET) == [0.2, 0.2]
    own = replace(config, first=AugmentConfig("moco_v3_first", crop=(0.5, 1.0)), second=AugmentConfig("byol_second"))
    assert least(own, RESNET) == [0.5, 0.08]
