"""Masked image modelling with discrete targets: what is hidden, what is predicted, where the frozen tokenizer lies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.patch_clusters import PatchClusters
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.visual_tokenizer import VisualTokenizerConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.beit import BeitConfig
from toys.masked_pictures import FLOAT64, IMAGES, STILL, VIT, batch_of, shapes

MODEL = dataclasses.replace(VIT, positions="relative", mask_token=True, key_bias=False, layer_scale=0.1)
NETWORK = VisualTokenizerConfig(codes=8, code_width=4, patch=4, width=8, blocks=1).build(IMAGES, FLOAT64)
CLUSTERS = PatchClusters(IMAGES, 4, 8)
ROWS, PATCHES, CODES, HIDDEN = 16, 16, 8, 6


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(tokenizer=CLUSTERS, augment=STILL):
    """(objective, parameters with noise, extras)"""
    objective = BeitConfig(min_block=2, augment=augment).build(MODEL, IMAGES, FLOAT64, tokenizer)
    key = jax.random.key(0)
    params, extras = jax.jit(lambda: [axes.unbox(x) for x in objective.start(key, objective.init(key, None), None)])()
    rng = np.random.default_rng(1)
    return objective, jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params), extras


@functools.partial(jax.jit, static_argnums=0)
def observed(objective, batch):
    return objective.observe_rows(objective.row_keys(random.stream(0, random.OBSERVE, 0), batch), batch, 0)


@functools.partial(jax.jit, static_argnums=0)
def scored(objective, params, extras, observation):
    return objective.encode(params, extras, observation, None, 0, train=False)


def test_hidden_patches_are_blocks():
    objective, _, _ = made()
    observation = observed(objective, batch_of(ROWS))
    masked = np.asarray(observation.inputs["masked"])
    assert objective.config.hidden(4) == HIDDEN and objective.config.hidden(14) == 75
    assert masked.sum(1).max() == HIDDEN and masked.sum(1).min() >= 4 and len(np.unique(masked, axis=0)) > ROWS // 2
    np.testing.assert_array_equal(observation.weights["nll"], masked)


def test_loss_is_that_of_hidden_patches():
    objective, params, extras = made()
    observation = observed(objective, batch_of(ROWS))
    masked = np.asarray(observation.inputs["masked"])
    names = ("logits", "targets", "hidden_patches", "features", "hidden", "reconstruction")
    inputs = {"image": shapes(ROWS), "masked": observation.inputs["masked"]}
    found = jax.jit(lambda p, x, i: objective.outputs(p, x, i, names))(params, extras, inputs)
    assert found["logits"].shape == (ROWS, PATCHES, CODES) and found["hidden"].shape == (ROWS, 1 + PATCHES, VIT.width)
    logits, targets = np.asarray(found["logits"]), np.asarray(found["targets"])
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    outcome = scored(objective, params, extras, observation)
    np.testing.assert_allclose(outcome.totals["nll"], nll[masked].sum(), rtol=1e-6)
    accuracy = outcome.metrics["accuracy"]
    np.testing.assert_allclose(accuracy.total / accuracy.weight, (logits.argmax(-1) == targets)[masked].mean())
    # Targets are the nearest centres; the reconstruction shows them, and predictions where patches are hidden.
    patches = ((shapes(ROWS) / 255 - np.float64(IMAGES.mean)) / IMAGES.std).reshape(ROWS, 4, 4, 4, 4, 3)
    patches = patches.swapaxes(2, 3).reshape(ROWS, PATCHES, 48)
    centres = np.asarray(extras["tokenizer"]["codebook"])
    np.testing.assert_array_equal(targets, np.square(patches[:, :, None] - centres).sum(-1).argmin(-1))
    ids = np.where(masked, logits.argmax(-1), targets)
    shown = centres[ids].reshape(ROWS, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(ROWS, 16, 16, 3)
    shown = np.clip(shown * np.float64(IMAGES.std) + IMAGES.mean, 0, 1)
    np.testing.assert_allclose(found["reconstruction"], shown, atol=1e-5)


def test_what_is_hidden_is_not_seen_and_what_is_seen_is_not_scored():
    objective, params, extras = made()
    observation = observed(objective, batch_of(ROWS))
    masked = np.asarray(observation.inputs["masked"])
    places = np.kron(masked.reshape(ROWS, 4, 4), np.ones((4, 4)))[..., None].astype(bool)
    before = scored(objective, params, extras, observation).per_row["nll"]

    def changed(name, where):
        value = observation.inputs[name]
        inputs = observation.inputs | {name: jnp.where(where, value[::-1, ::-1], value)}
        return scored(objective, params, extras, observation.replace(inputs=inputs)).per_row["nll"]

    np.testing.assert_array_equal(changed("image", places), before)
    np.testing.assert_array_equal(changed("cells", ~places), before)
    assert (changed("image", ~places) != before).all()
    assert (changed("cells", places) != before).any()


def test_the_tokenizer_is_frozen():
    objective, params, extras = made(NETWORK)
    first = jax.eval_shape(objective.init, jax.random.key(0), None)
    assert set(first["tokenizer"]) == {"network", "codebook"}
    assert set(params) == {"encoder", "head"} and set(extras["tokenizer"]) == {"network", "codebook"}
    observation = observed(objective, batch_of(ROWS))
    loss = lambda p, x: scored(objective, p, x, observation).totals["nll"]
    of_params, of_tokenizer = jax.jit(jax.grad(loss, (0, 1)))(params, extras)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_tokenizer))
    still = [path for path, leaf in paths.leaves(of_params) if not np.any(leaf)]
    assert still == []
    assert objective.advance(params, extras, {}, None, 0)[1] is extras
    # What another run brings takes the place of what `init` made.
    brought = {"network": {}, "codebook": axes.boxed(jnp.ones((CODES, 4)), "vocab", None)}
    _, given = objective.start(jax.random.key(0), {"encoder": {}, "tokenizer": brought}, None)
    assert given["tokenizer"] is brought


def test_tokenizer_and_model_see_the_same_crop():
    finer = VisualTokenizerConfig(codes=8, code_width=4, patch=2, width=8, blocks=1).build(IMAGES, FLOAT64)
    augment = AugmentConfig("mae", crop=(0.3, 0.5))
    objective = BeitConfig(min_block=2, augment=augment).build(MODEL, IMAGES, FLOAT64, finer)
    inputs = observed(objective, batch_of(ROWS)).inputs
    seen = np.asarray(inputs["image"]) * np.float64(IMAGES.std) + IMAGES.mean
    cells = np.asarray(inputs["cells"])
    assert cells.shape == (ROWS, 8, 8, 3)
    smaller = seen.reshape(ROWS, 8, 2, 8, 2, 3).mean((2, 4))
    centred = lambda x: (x - x.mean((1, 2), keepdims=True)).ravel()
    alike = lambda x, y: np.corrcoef(centred(x), centred(y))[0, 1]
    assert alike(smaller, cells) > 0.95 > alike(smaller[:, :, ::-1], cells)


def test_the_paper_s_sizes():
    """BEiT-B with one table of relative positions: 91,965,776 numbers as transformers counts them, whose block has one
    bias-free projection of keys and two layer scales."""
    model = VitConfig(
        width=768, depth=12, heads=12, positions="relative", mask_token=True, key_bias=False, layer_scale=0.1
    )
    images = Images(224)
    tokenizer = VisualTokenizerConfig(codes=8192, patch=8).build(images, Precision())
    objective = BeitConfig().build(model, images, Precision(), tokenizer)
    assert objective.cells_side == 112
    shapes = axes.unbox(jax.eval_shape(objective.init, jax.random.key(0), None))
    del shapes["tokenizer"]
    assert sum(leaf.size for _, leaf in paths.leaves(shapes)) == 91_965_776
    assert objective.flops_per_row() > 0


@pytest.mark.parametrize(
    ("model", "tokenizer", "config", "where"),
    [
        (ResNetConfig(), CLUSTERS, {}, "config.model.name"),
        (VIT, CLUSTERS, {}, "config.model.mask_token"),
        (MODEL, None, {}, "config.objective.tokenizer"),
        (MODEL, PatchClusters(IMAGES, 8, 8), {}, "config.model.patch"),
        (MODEL, PatchClusters(Images(16, 1, (), (0.5,), (0.5,)), 4, 8), {}, "config.objective.tokenizer"),
        (MODEL, CLUSTERS, {"min_block": 16}, "config.objective.min_block"),
        (MODEL, CLUSTERS, {"mask_count": 16}, "config.objective.min_block"),
    ],
)
def test_refusals(model, tokenizer, config, where):
    with pytest.raises(ConfigError) as caught:
        BeitConfig(**({"min_block": 2, "augment": STILL} | config)).build(model, IMAGES, FLOAT64, tokenizer)
    assert caught.value.where == where


def test_training_without_a_key_is_without_dropout():
    objective = BeitConfig(min_block=2, augment=STILL).build(
        dataclasses.replace(MODEL, dropout=0.5), IMAGES, FLOAT64, CLUSTERS
    )
    given = batch_of(2)
    params = axes.unbox(objective.init(jax.random.key(0), given))
    one, other = (
        objective.outputs(params, {}, given, ("features",), train=train)["features"] for train in (True, False)
    )
    np.testing.assert_array_equal(one, other)
