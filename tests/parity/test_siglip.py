"""SigLIP against `transformers` and open_clip from the same random weights: vectors, logits, loss and every gradient."""

import jax
import pytest

from parity import paired
from parity.paired import IMAGES, SPECIALS, TEXT, VISION, Ours, captions
from parity.pictured import compare, pixels, round_trip
from parity.reference import VOCAB, randomised
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.siglip import SiglipConfig

pytestmark = [pytest.mark.usefixtures("reference"), pytest.mark.xdist_group("parity")]

OBJECTIVE = SiglipConfig(augment=AugmentConfig("none"))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(dtype="float64", words=VOCAB, pad=0, **towers):
    import transformers

    text = TEXT | {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": pad, "projection_size": VISION["hidden_size"]}
    text |= {"vocab_size": words}
    config = transformers.SiglipConfig(text_config=text | towers, vision_config=VISION | towers)
    return randomised(transformers.SiglipModel(config), dtype)


def answers(model, tokens, images=IMAGES):
    """Padding is seen: there is no mask."""
    import torch

    given = pixels(images).to(model.dtype)
    found = model(input_ids=torch.tensor(tokens, dtype=torch.long), pixel_values=given, return_loss=True)
    return {"image": found.image_embeds, "text": found.text_embeds, "logits": found.logits_per_image}, found.loss


@pytest.mark.parametrize("towers", [{"hidden_act": "gelu", "layer_norm_eps": 1e-3}, {}])
def test_vectors_logits_loss_and_every_gradient(tmp_path, towers):
    model, tokens = build(**towers), captions(begin=False)
    ours = Ours.of(model, tmp_path, OBJECTIVE)
    assert ours.read.config.pad == SPECIALS["pad"]
    compare(ours, model, ours.scored(IMAGES, tokens), *answers(model, tokens))


@pytest.mark.parametrize("form", paired.FORMS)
def test_the_loss_alone(vision_reference, form):
    """Of unit vectors and scalars, against open_clip's: value and gradients."""
    import torch
    from open_clip.loss import SigLipLoss

    paired.compare_losses(OBJECTIVE, form, SigLipLoss(), torch)


def test_round_trip_is_bit_identical(tmp_path):
    import torch

    model = build("float32")
    given = {"input_ids": torch.tensor(captions(), dtype=torch.long), "pixel_values": pixels(IMAGES).float()}
    for loaded in round_trip(model, tmp_path, SPECIALS):
        assert torch.equal(loaded(**given).logits_per_image, model(**given).logits_per_image)


def test_the_commands(tmp_path):
    """The same of a run, whose captions are filled up with the end, as the library's own are."""
    model = build("float32", words=paired.WORDS - 1, pad=256)
    model.save_pretrained(tmp_path / "hf")
    asked = lambda images, tokens: answers(model, tokens, images)[0]
    out = paired.compare_commands(tmp_path, ("</s>",), asked, begin=False, padding=256)
    paired.compare_exported(model, out)
