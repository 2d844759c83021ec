"""Masked autoencoding: what is hidden, what is recovered, what the encoder sees, the loss, pictures of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.patches import patchify, sincos_table
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.mae import MaeConfig
from toys.masked_pictures import FLOAT64, IMAGES, STILL, VIT, batch_of, shapes

SMALL = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 3, "augment": STILL}
ROWS, PATCHES, VISIBLE = 16, 16, 4


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(**changes):
    """(objective, its parameters with noise)"""
    objective = MaeConfig(**(SMALL | changes)).build(VIT, IMAGES, FLOAT64)
    params = axes.unbox(jax.jit(objective.init)(jax.random.key(0), None))
    rng = np.random.default_rng(1)
    return objective, jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params)


@functools.partial(jax.jit, static_argnums=0)
def observed(objective, batch, step=0):
    return objective.observe_rows(objective.row_keys(random.stream(0, random.OBSERVE, step), batch), batch, step)


@functools.partial(jax.jit, static_argnums=0)
def scored(objective, params, observation):
    return objective.encode(params, {}, observation, None, 0, train=False).totals["mse"]


@functools.partial(jax.jit, static_argnums=(0, 3))
def outputs(objective, params, inputs, names):
    return objective.outputs(params, {}, inputs, names)


def test_what_is_hidden():
    objective, _ = made()
    observation = observed(objective, batch_of(ROWS))
    inputs, hidden = observation.inputs, np.asarray(observation.weights["mse"])
    np.testing.assert_array_equal(hidden.sum(1), PATCHES - VISIBLE)
    order = np.asarray(inputs["order"])
    np.testing.assert_array_equal(np.take_along_axis(order, np.asarray(inputs["restore"]), 1), [range(PATCHES)] * ROWS)
    assert not np.take_along_axis(hidden, order[:, :VISIBLE], 1).any()
    assert (order[0] != order[1]).any()
    assert [MaeConfig(mask_ratio=ratio).visible(196) for ratio in (0.75, 0.6, 0.9)] == [49, 78, 19]


@pytest.mark.parametrize("normalise", [True, False])
def test_targets(normalise):
    objective, _ = made(normalise_pixels=normalise)
    images = (shapes(ROWS) / 255 - np.float64(IMAGES.mean)) / IMAGES.std
    wanted = np.stack(
        [[image[i : i + 4, j : j + 4].ravel() for i in range(0, 16, 4) for j in range(0, 16, 4)] for image in images]
    )
    if normalise:
        wanted = (wanted - wanted.mean(-1, keepdims=True)) / np.sqrt(wanted.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(observed(objective, batch_of(ROWS)).targets, wanted, atol=2e-4)


def test_loss_is_the_mean_over_hidden_patches():
    objective, params = made()
    observation = observed(objective, batch_of(ROWS))
    inputs = {"image": shapes(ROWS), "order": observation.inputs["order"]}
    found = outputs(objective, params, inputs, ("prediction",))
    hidden = observation.weights["mse"]
    errors = np.square(found["prediction"] - observation.targets).mean(-1)
    wanted = (errors * hidden).sum() / (ROWS * (PATCHES - VISIBLE))
    np.testing.assert_allclose(scored(objective, params, observation) / hidden.sum(), wanted, rtol=1e-6)


def test_only_targets_of_hidden_patches_count():
    objective, params = made()
    observation = observed(objective, batch_of(ROWS))
    total = lambda targets: scored(objective, params, observation.replace(targets=targets))
    moved = np.abs(jax.grad(total)(observation.targets.astype(float))).max(-1) > 0
    np.testing.assert_array_equal(moved, observation.weights["mse"] > 0)


def test_encoder_sees_visible_patches_only():
    objective, params = made()
    inputs = observed(objective, batch_of(ROWS)).inputs
    model = lambda image: objective.model.apply(
        {"params": params}, image, inputs["order"][:, : objective.visible], inputs["restore"]
    )
    of_image = jax.jit(jax.grad(lambda image: jnp.square(model(image)).sum()))(inputs["image"].astype(float))
    seen = np.abs(patchify(of_image, 4)).max(-1) > 0
    np.testing.assert_array_equal(seen, inputs["restore"] < VISIBLE)


def test_the_order_of_patches_does_not_matter():
    objective, params = made()
    inputs = observed(objective, batch_of(ROWS)).inputs
    other = np.concatenate([inputs["order"][:, :VISIBLE][:, ::-1], inputs["order"][:, VISIBLE:][:, ::-1]], 1)
    assert (other != inputs["order"]).any()
    run = lambda order: outputs(
        objective, params, {"image": shapes(ROWS), "order": jnp.asarray(order)}, ("prediction",)
    )
    np.testing.assert_allclose(run(inputs["order"])["prediction"], run(other)["prediction"], atol=1e-12)


def test_encoder_without_positions_is_equivariant():
    objective, params = made()
    nowhere = MaeConfig(**SMALL).build(dataclasses.replace(VIT, positions="none"), IMAGES, FLOAT64).model
    image = observed(objective, batch_of(ROWS)).inputs["image"]
    encode = jax.jit(lambda places: nowhere.apply({"params": params}, image, places, method="encode")[:, 1:])
    places = np.tile(np.arange(PATCHES), (ROWS, 1))
    np.testing.assert_allclose(encode(places[:, ::-1]), encode(places)[:, ::-1], atol=1e-12)


def test_pictures():
    objective, params = made()
    images = shapes(ROWS)
    names = ("reconstruction", "hidden_patches", "features", "hidden", "prediction")
    found = outputs(objective, params, {"image": images}, names)
    assert found["features"].shape == (ROWS, VIT.width) and found["hidden"].shape == (ROWS, 1 + PATCHES, VIT.width)
    same = np.abs(patchify(np.asarray(found["reconstruction"]) - images / 255, 4)).max(-1) < 1e-5
    np.testing.assert_array_equal(same, ~found["hidden_patches"])
    # Hidden patches are the predictions, with each patch's mean and deviation, then the data's, put back in.
    patches = patchify((images / 255 - np.float64(IMAGES.mean)) / IMAGES.std, 4)
    deviation = np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6)
    pixels = (np.asarray(found["prediction"]) * deviation + patches.mean(-1, keepdims=True)).reshape(
        ROWS, PATCHES, 16, 3
    )
    wanted = np.clip(pixels * np.float64(IMAGES.std) + IMAGES.mean, 0, 1).reshape(ROWS, PATCHES, 48)
    shown = patchify(np.asarray(found["reconstruction"]), 4)
    np.testing.assert_allclose(shown[found["hidden_patches"]], wanted[found["hidden_patches"]], atol=1e-4)


def test_the_paper_s_sizes():
    """ViT-B: 111,907,840 numbers with the two fixed tables, and 49 of 196 patches are visible."""
    model = VitConfig(width=768, depth=12, heads=12, positions="sincos", initial="xavier")
    objective = MaeConfig().build(model, Images(224), Precision())
    assert (objective.visible, objective.patches) == (49, 196)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), None)
    count = sum(leaf.size for _, leaf in paths.leaves(axes.unbox(shapes)))
    assert count + 197 * (768 + 512) == 111_907_840
    assert objective.flops_per_row() > 0


def test_tables_are_constants():
    objective, params = made()
    assert not [path for path, _ in paths.leaves(params) if "position" in path]
    assert sincos_table(4, 12, True).shape == (17, 12)


@pytest.mark.parametrize(
    ("model", "config", "where"),
    [
        (EncoderConfig(), {}, "config.model.name"),
        (dataclasses.replace(VIT, pool="mean", pool_norm=True), {}, "config.model.pool_norm"),
        (dataclasses.replace(VIT, mask_token=True), {}, "config.model.mask_token"),
        (dataclasses.replace(VIT, positions="relative"), {}, "config.model.positions"),
        (VIT, {"mask_ratio": 0.99}, "config.objective.mask_ratio"),
        (VIT, {"augment": AugmentConfig("mae", size=18)}, "config.model.patch"),
    ],
)
def test_refusals(model, config, where):
    with pytest.raises(ConfigError) as caught:
        MaeConfig(**(SMALL | config)).build(model, IMAGES, FLOAT64)
    assert caught.value.where == where


def test_width_of_the_decoder():
    with pytest.raises(ConfigError, match="width"):
        MaeConfig(decoder_width=18, decoder_heads=3)


def test_training_without_a_key_is_without_dropout():
    objective = MaeConfig(**SMALL).build(dataclasses.replace(VIT, dropout=0.5), IMAGES, FLOAT64)
    given = batch_of(2)
    params = axes.unbox(objective.init(jax.random.key(0), given))
    one, other = (
        objective.outputs(params, {}, given, ("features",), train=train)["features"] for train in (True, False)
    )
    np.testing.assert_array_equal(one, other)
