"""ViT against `transformers` from the same random weights: logits, loss, every gradient; what its image processor makes."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from parity.pictured import IMAGES, ROWS, SIZES, Ours, compare, pixels, round_trip
from parity.reference import apart, randomised
from pretrainx.interop import directory
from pretrainx.models.layers import Precision
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.classification import ClassificationConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

LABELS = np.array([6, 0, 3], np.int32)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name="ViTForImageClassification", dtype="float64", **changes):
    import transformers

    values = {**SIZES, **({"num_labels": 7} if "For" in name else {}), **changes}
    return randomised(getattr(transformers, name)(transformers.ViTConfig(**values)), dtype)


def classifier(config, precision):
    return ClassificationConfig(AugmentConfig("none")).build(config.model, config.images, precision)


@pytest.mark.parametrize("changes", [{}, {"image_size": 25, "num_attention_heads": 9, "hidden_act": "relu"}])
def test_logits_loss_and_every_gradient(tmp_path, changes):
    import torch

    model, images = (
        build(**changes),
        np.random.default_rng(1).standard_normal((ROWS, 25, 25, 3), np.float32).astype(float),
    )
    images = images if changes else IMAGES
    ours = Ours.of(model, tmp_path, classifier)
    logits = model(pixels(images)).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS, dtype=torch.long))
    predict = lambda params: ours.objective.model.apply({"params": params}, images)["logits"]
    found = ours.scored(predict, {}, {"image": images}, LABELS, {"nll": np.ones(ROWS, np.float32)})
    compare(ours, model, found, logits, loss)


def test_the_base_model_has_features(tmp_path):
    """Without a head, its tensors without a prefix; its pooler is named and left out."""
    model = build("ViTModel")
    model.save_pretrained(tmp_path)
    read = directory.read(tmp_path)
    network = read.config.model.build(read.config.images, Precision("float64", "float64"))
    found = jax.jit(lambda params: network.apply({"params": params}, IMAGES))(read.params["backbone"])
    assert apart(found, model(pixels()).last_hidden_state[:, 0].detach().numpy()) < 1e-9
    assert read.facts["left_out"] == ["vit.pooler.dense.bias", "vit.pooler.dense.weight"]


def test_round_trip_is_bit_identical(tmp_path):
    import torch

    model = build(dtype="float32")
    wanted = model(pixels().float()).logits
    for loaded in round_trip(model, tmp_path):
        assert torch.equal(loaded(pixels().float()).logits, wanted)


def test_fixed_positions_become_a_table(tmp_path):
    """A ViT of sines and cosines is written with them as positions."""
    import transformers

    read_model = build(dtype="float32")
    read_model.save_pretrained(tmp_path / "hf")
    read = directory.read(tmp_path / "hf")
    params = {**read.params, "backbone": {k: v for k, v in read.params["backbone"].items() if k != "position"}}
    model = dataclasses.replace(read.config.model, positions="sincos")
    config = dataclasses.replace(read.config, model=model)
    directory.write(tmp_path / "out", config, params, ids=0, vocab_size=0, max_length=0)
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out").double()
    network = classifier(config, Precision("float64", "float64")).model
    found = jax.jit(lambda params: network.apply({"params": params}, IMAGES)["logits"])(params)
    assert apart(found, loaded(pixels()).logits.detach().numpy()) < 1e-6


def test_the_image_processor(tmp_path, vision_reference):
    """What is written beside makes of bytes what our normalisation makes of them; what is read is what it says."""
    import torch
    import transformers

    pixel = {"image_mean": [0.4, 0.5, 0.3], "image_std": [0.2, 0.25, 0.3]}
    model = build(dtype="float32")
    model.save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(pixel | {"size": 15, "do_resize": False}))
    read = directory.read(tmp_path / "hf")
    assert read.config.images.mean == (0.4, 0.5, 0.3) and read.config.images.std == (0.2, 0.25, 0.3)
    directory.write(tmp_path / "out", read.config, read.params, ids=0, vocab_size=0, max_length=0)
    processor = transformers.ViTImageProcessor.from_pretrained(tmp_path / "out")
    pictures = np.random.default_rng(3).integers(0, 256, (ROWS, 15, 15, 3), dtype=np.uint8)
    given = processor([torch.tensor(np.moveaxis(picture, -1, 0)) for picture in pictures], return_tensors="pt")
    with jax.enable_x64(False):
        objective = classifier(read.config, Precision())
        found = objective.outputs(read.params, {}, {"image": pictures}, ("logits",))["logits"]
    assert apart(found, model(given["pixel_values"]).logits.detach().numpy()) < 1e-4
