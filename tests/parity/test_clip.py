"""CLIP against `transformers` and open_clip from the same random weights: vectors, logits, loss and every gradient."""

import jax
import numpy as np
import pytest

from parity import paired
from parity.paired import IMAGES, SPECIALS, TEXT, VISION, VOCAB, Ours, captions
from parity.pictured import compare, pixels, round_trip
from parity.reference import randomised
from pretrainx.interop import directory
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.clip import ClipConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

OBJECTIVE = ClipConfig(augment=AugmentConfig("none"))
LAST = SPECIALS | {"eos": VOCAB - 1}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(dtype="float64", end=1, words=VOCAB, **towers):
    """The ids of the special tokens are within the vocabulary; 2 for the end is an old file's, which reads the highest."""
    import transformers

    special = {"bos_token_id": 3, "eos_token_id": end, "pad_token_id": 0, "vocab_size": words}
    values = {"text_config": TEXT | special | towers, "vision_config": VISION | towers, "projection_dim": 22}
    return randomised(transformers.CLIPModel(transformers.CLIPConfig(**values)), dtype)


def answers(model, tokens, images=IMAGES):
    import torch

    given = pixels(images).to(model.dtype)
    found = model(input_ids=torch.tensor(tokens, dtype=torch.long), pixel_values=given, return_loss=True)
    return {"image": found.image_embeds, "text": found.text_embeds, "logits": found.logits_per_image}, found.loss


@pytest.mark.parametrize(
    "end, towers", [(1, {"hidden_act": "gelu"}), (2, {}), (1, {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-3})]
)
def test_vectors_logits_loss_and_every_gradient(tmp_path, end, towers):
    specials = LAST if end == 2 else SPECIALS
    model, tokens = build(end=end, **towers), captions(specials)
    ours = Ours.of(model, tmp_path, OBJECTIVE, specials)
    assert ours.read.config.end == specials["eos"]
    compare(ours, model, ours.scored(IMAGES, tokens), *answers(model, tokens))


def test_equal_captions_are_negatives_as_published(tmp_path):
    """Only where that is asked for; by default a picture is not driven away from a caption that is true of it."""
    tokens = captions()
    tokens[3] = tokens[1]
    model = build()
    ours = Ours.of(model, tmp_path, OBJECTIVE)
    wanted, observation = answers(model, tokens)[1].item(), ours.observation(IMAGES, tokens)
    published = ours.terms(ours.params, observation, duplicates="negatives")
    np.testing.assert_allclose(published["contrastive"], wanted, rtol=1e-12)
    assert ours.terms(ours.params, observation)["contrastive"] < 0.98 * wanted


@pytest.mark.parametrize("form", paired.FORMS)
def test_the_loss_alone(vision_reference, form):
    """Of unit vectors and a scale, against open_clip's: value and gradients."""
    import torch
    from open_clip.loss import ClipLoss

    paired.compare_losses(OBJECTIVE, form, lambda image, text, scale, offset: ClipLoss()(image, text, scale), torch)


def test_round_trip_is_bit_identical(tmp_path):
    import torch

    model = build("float32")
    given = {"input_ids": torch.tensor(captions(), dtype=torch.long), "pixel_values": pixels(IMAGES).float()}
    for loaded in round_trip(model, tmp_path, SPECIALS):
        assert torch.equal(loaded(**given).logits_per_image, model(**given).logits_per_image)


def test_the_image_processor_s_defaults(tmp_path):
    """A directory without its file has the means that the library's class has."""
    import transformers

    build("float32").save_pretrained(tmp_path)
    processor, images = transformers.CLIPImageProcessor(), directory.read(tmp_path).config.images
    np.testing.assert_allclose([images.mean, images.std], [processor.image_mean, processor.image_std])


def test_the_commands(tmp_path):
    """A run imported from what the library saved answers as it does, and the library reads what is exported."""
    model = build("float32", end=257, words=paired.WORDS)
    model.save_pretrained(tmp_path / "hf")
    asked = lambda images, tokens: answers(model, tokens, images)[0]
    out = paired.compare_commands(tmp_path, ("<|startoftext|>", "<|endoftext|>"), asked)
    paired.compare_exported(model, out)
