"""BEiT against `transformers` from the same random weights: logits, loss and every gradient, of hidden patches' ids and of
classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.pictured import IMAGES, PATCHES, ROWS, SIZES, Ours, compare, pixels, round_trip
from parity.reference import randomised
from pretrainx.models.patch_clusters import PatchClusters
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.beit import BeitConfig
from pretrainx.objectives.classification import ClassificationConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

CODES, MOST = 23, 5
MASKED = np.array([[1, 0, 1, 1, 0, 0, 1, 0, 1], [0, 1, 1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1, 1]], bool)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name="BeitForMaskedImageModeling", dtype="float64", **changes):
    import transformers

    habits = {"vocab_size": CODES, "use_mask_token": True, "use_shared_relative_position_bias": True}
    values = {**SIZES, **habits, "drop_path_rate": 0.0, **changes}
    return randomised(getattr(transformers, name)(transformers.BeitConfig(**values)), dtype)


def predictor(config, precision):
    """Its ids are those of clusters of patches: random, and the same for both."""
    objective = BeitConfig(mask_count=MOST, min_block=2, augment=AugmentConfig("none"))
    return objective.build(config.model, config.images, precision, PatchClusters(config.images, 5, CODES))


def classifier(config, precision):
    return ClassificationConfig(AugmentConfig("none")).build(config.model, config.images, precision)


@pytest.mark.parametrize("relative", [True, False])
def test_logits_loss_and_every_gradient(tmp_path, relative):
    import torch

    model = build(use_shared_relative_position_bias=relative)
    ours = Ours.of(model, tmp_path, predictor)
    cells = np.random.default_rng(4).random((ROWS, 15, 15, 3), np.float32).astype(np.float64)
    extras = {"tokenizer": {"codebook": jnp.asarray(np.random.default_rng(6).standard_normal((CODES, 75)))}}
    ids = np.asarray(ours.objective.targets(extras, jnp.asarray(cells)))
    assert ids.shape == (ROWS, PATCHES) and len(np.unique(ids)) > 4
    masked = torch.tensor(MASKED)
    logits = model(pixels(), bool_masked_pos=masked).logits
    loss = torch.nn.functional.cross_entropy(logits[masked], torch.tensor(ids[MASKED], dtype=torch.long))
    predict = lambda params: ours.objective.model.apply({"params": params}, IMAGES, MASKED)
    inputs = {"image": IMAGES, "cells": cells, "masked": MASKED}
    scored = ours.scored(predict, extras, inputs, {}, {"nll": MASKED.astype(np.float32)})
    compare(ours, model, scored, logits, loss)


def test_a_classifier_of_pooled_patches(tmp_path):
    import torch

    model = build("BeitForImageClassification", num_labels=4, use_mask_token=False, layer_scale_init_value=0.0)
    ours, labels = Ours.of(model, tmp_path, classifier), np.array([3, 0, 1], np.int32)
    logits = model(pixels()).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels, dtype=torch.long))
    predict = lambda params: ours.objective.model.apply({"params": params}, IMAGES)["logits"]
    scored = ours.scored(predict, {}, {"image": IMAGES}, labels, {"nll": np.ones(ROWS, np.float32)})
    compare(ours, model, scored, logits, loss)


@pytest.mark.parametrize("name", ["BeitForMaskedImageModeling", "BeitModel"])
def test_round_trip_is_bit_identical(tmp_path, name):
    import torch

    model = build(name, dtype="float32")
    wanted = model(pixels().float())[0]
    for loaded in round_trip(model, tmp_path):
        assert torch.equal(loaded(pixels().float())[0], wanted)
