"""Supervised classification: its loss by hand, smoothing, labels that are none, statistics, outputs, what is refused."""

import functools

import jax
import numpy as np
import pytest

from pretrainx.core import axes, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.classification import ClassificationConfig

IMAGES = Images(8, 1, ("shirt", "shoe", "bag"), (0.4,), (0.3,))
WIDE, STILL = Precision("float64", "float64"), AugmentConfig("none")
RESNET, VIT = ResNetConfig((1,), width=4), VitConfig(8, 1, 2, patch=4)
ROWS = 6
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 1)).astype(np.uint8),
    "label": np.int32([0, 1, 2, -1, 1, 7]),
    "valid": np.arange(ROWS) != 4,
}
COUNTS = np.array([True, True, True, False, False, False])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(model, **changes):
    """(objective, parameters with noise, extras)"""
    with jax.enable_x64(True):
        objective = ClassificationConfig(**({"augment": STILL} | changes)).build(model, IMAGES, WIDE)
        start = lambda key: objective.start(key, objective.init(key, BATCH), BATCH)
        params, extras = (axes.unbox(tree) for tree in jax.jit(start)(jax.random.key(0)))
        rng = np.random.default_rng(1)
        return objective, jax.tree.map(lambda x: x + 0.2 * rng.standard_normal(x.shape), params), extras


@functools.partial(jax.jit, static_argnums=(0, 4))
def scored(objective, params, extras, batch, train):
    keys = objective.row_keys(random.stream(0, random.OBSERVE, 0), batch)
    observation = objective.observe_rows(keys, batch, 0)
    return observation, objective.encode(params, extras, observation, keys, 0, train=train)


@functools.partial(jax.jit, static_argnums=(0, 4))
def outputs(objective, params, extras, images, names):
    return objective.outputs(params, extras, {"image": images}, names)


@pytest.mark.parametrize("model", [RESNET, VIT])
def test_by_hand(model):
    objective, params, extras = made(model)
    assert ("batch_stats" in extras) == (model is RESNET)
    observation, outcome = scored(objective, params, extras, BATCH, False)
    np.testing.assert_array_equal(observation.weights["nll"], COUNTS)
    np.testing.assert_allclose(observation.inputs["image"], (BATCH["image"] / 255 - 0.4) / 0.3, atol=1e-5)
    found = outputs(objective, params, extras, BATCH["image"], ("logits", "features"))
    head, logits = params["classes"], np.asarray(found["logits"])
    np.testing.assert_allclose(logits, found["features"] @ head["kernel"] + head["bias"], rtol=1e-11)
    nll = np.log(np.exp(logits).sum(1)) - np.take_along_axis(logits, BATCH["label"].clip(0, 2)[:, None], 1)[:, 0]
    np.testing.assert_allclose(outcome.per_row["nll"], np.where(COUNTS, nll, 0), rtol=1e-6)
    np.testing.assert_allclose(outcome.totals["nll"], nll[COUNTS].sum(), rtol=1e-6)
    hits = (logits.argmax(1) == BATCH["label"])[COUNTS].sum()
    accuracy = outcome.metrics["accuracy"]
    assert (float(accuracy.total), float(accuracy.weight)) == (hits, 3) and outcome.extras == {}
    assert objective.reads.fields == ("label",) and objective.flops_per_row() > 6 * 3 * params["classes"]["bias"].size


def test_smoothing_is_of_training_only():
    plain, smooth = made(VIT), made(VIT, label_smoothing=0.3)
    per_row = lambda made, train: np.asarray(scored(*made, BATCH, train)[1].per_row["nll"])
    np.testing.assert_allclose(per_row(smooth, False), per_row(plain, False))
    logits = np.asarray(outputs(*plain, BATCH["image"], ("logits",))["logits"])
    to_all = (np.log(np.exp(logits).sum(1, keepdims=True)) - logits).mean(1)
    wanted = 0.7 * per_row(plain, True) + 0.3 * np.where(COUNTS, to_all, 0)
    np.testing.assert_allclose(per_row(smooth, True), wanted, rtol=1e-6)


def test_statistics_are_those_of_valid_rows():
    """An unlabelled picture is one of them, a padded row is not."""
    objective, params, extras = made(RESNET)
    moved = lambda batch: scored(objective, params, extras, batch, True)[1].extras["batch_stats"]["backbone"][
        "stem_norm"
    ]
    changed = lambda row: BATCH | {"image": np.where((np.arange(ROWS) == row)[:, None, None, None], 7, BATCH["image"])}
    same = lambda row: np.array_equal(moved(BATCH)["mean"], moved(changed(row))["mean"])
    assert same(4) and not same(3)
    kept = extras["batch_stats"]["backbone"]["stem_norm"]["mean"]
    assert (np.asarray(moved(BATCH)["mean"]) != np.asarray(kept)).any()


def test_hidden_and_other_sizes():
    objective, params, extras = made(VIT)
    found = outputs(objective, params, extras, BATCH["image"], ("hidden", "features"))
    assert found["hidden"].shape == (ROWS, 5, 8)
    np.testing.assert_array_equal(found["hidden"][:, 0], found["features"])
    larger, params, extras = made(VIT, augment=AugmentConfig("probe", size=12))
    assert params["backbone"]["position"]["table"].shape == (10, 8)
    assert outputs(larger, params, extras, BATCH["image"], ("logits",))["logits"].shape == (ROWS, 3)
    assert scored(larger, params, extras, BATCH, True)[0].inputs["image"].shape == (ROWS, 12, 12, 1)


def test_what_is_refused():
    with pytest.raises(ConfigError, match="no classes"):
        ClassificationConfig().build(VIT, Images(8), WIDE)
    with pytest.raises(ConfigError, match="reads pictures"):
        ClassificationConfig().build(EncoderConfig(), IMAGES, WIDE)


def test_equal_configs_are_equal():
    build = lambda: ClassificationConfig().build(RESNET, IMAGES, WIDE)
    assert build() == build() and hash(build()) == hash(build())
