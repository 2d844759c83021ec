"""CoCa against open_clip from the same random weights: vectors, logits, both losses and every gradient; its directories."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from parity import paired
from parity.paired import IMAGES, LENGTH, SPECIALS, VOCAB, Ours, captions
from parity.pictured import compare, pixels
from parity.reference import randomised
from pretrainx.interop import directory
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.coca import CocaConfig

pytestmark = [pytest.mark.usefixtures("vision_reference"), pytest.mark.xdist_group("parity")]

OBJECTIVE = CocaConfig(augment=AugmentConfig("none"), contrastive_weight=0.7, caption_weight=1.9)
TEXT = {"vocab_size": VOCAB, "context_length": LENGTH, "width": 20, "heads": 5}
SIZES = {
    "embed_dim": 20,
    "vision_cfg": {
        "image_size": 15,
        "patch_size": 5,
        "width": 27,
        "head_width": 9,
        "layers": 2,
        "mlp_ratio": 1.5,
        "attentional_pool": True,
        "attn_pooler_queries": 7,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": TEXT | {"layers": 2, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT | {"layers": 1},
    "custom_text": True,
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Reference:
    """What saves itself as open_clip's models are saved for the hub."""

    def __init__(self, dtype="float64", **changes):
        import open_clip

        self.values = SIZES | changes
        sizes = {name: value for name, value in self.values.items() if name != "custom_text"}
        self.model = randomised(open_clip.CoCa(**sizes), dtype)
        for module in (self.model.text, self.model.text_decoder):
            module.attn_mask = module.attn_mask.to(next(self.model.parameters()).dtype)

    def save_pretrained(self, folder):
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        pixels = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
        content = {"model_cfg": self.values, "preprocess_cfg": pixels}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        save_file(self.model.state_dict(), folder / "open_clip_model.safetensors")


def answers(model, tokens, images=IMAGES):
    import torch
    from open_clip.loss import CoCaLoss

    found = model(pixels(images).to(model.logit_scale.dtype), torch.tensor(tokens, dtype=torch.long))
    image, text, scale = (found[name] for name in ("image_features", "text_features", "logit_scale"))
    scored = CoCaLoss(caption_loss_weight=1.9, clip_loss_weight=0.7, pad_id=SPECIALS["pad"])
    terms = scored(image, text, found["logits"], found["labels"], scale, output_dict=True)
    outputs = {"image": image, "text": text, "logits": scale * image @ text.T, "words": found["logits"]}
    return outputs, {"contrastive": terms["contrastive_loss"], "caption": terms["caption_loss"]}


@pytest.mark.parametrize("shifted, changes", [(False, {"quick_gelu": True}), (True, {"embed_dim": 20})])
def test_vectors_logits_losses_and_every_gradient(tmp_path, shifted, changes):
    reference, tokens = Reference(**changes), captions()
    model = reference.model
    model.text.correct_cls_mask = not shifted
    reference.save_pretrained(tmp_path)
    read = directory.read(tmp_path)
    assert read.config.model.text.shifted_class_mask and read.config.pad == SPECIALS["pad"]
    ours = Ours(dataclasses.replace(read, config=read.config.with_text(shifted_class_mask=shifted)), OBJECTIVE)
    ours.folder = tmp_path
    outputs, terms = answers(model, tokens)
    each = ours.terms(ours.params, ours.observation(IMAGES, tokens))
    for name, term in terms.items():
        np.testing.assert_allclose(each[name], term.item(), rtol=1e-12)
    compare(ours, model, ours.scored(IMAGES, tokens), outputs, sum(terms.values()))


def test_the_two_masks_differ(tmp_path):
    """Otherwise the test above would prove nothing of them."""
    reference = Reference()
    reference.save_pretrained(tmp_path)
    read = directory.read(tmp_path)
    found = []
    for shifted in (False, True):
        ours = Ours(dataclasses.replace(read, config=read.config.with_text(shifted_class_mask=shifted)), OBJECTIVE)
        found.append(ours.outputs(ours.params, ours.observation(IMAGES, captions()))["text"])
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_commands(tmp_path):
    """A run imported from a directory of open_clip's answers as its model does, and it reads what is exported."""
    import open_clip
    import torch

    words = {name: SIZES[name] | {"vocab_size": paired.WORDS} for name in ("text_cfg", "multimodal_cfg")}
    reference = Reference("float32", **words)
    reference.save_pretrained(tmp_path / "hf")
    asked = lambda images, tokens: answers(reference.model, tokens, images)[0]
    out = paired.compare_commands(tmp_path, ("<|startoftext|>", "<|endoftext|>"), asked, padding=0)
    loaded = open_clip.create_model(f"local-dir:{out}", pretrained_text=False)
    given = dict(reference.model.named_parameters())
    assert all(torch.equal(given[name], value) for name, value in loaded.named_parameters())
    assert loaded.visual.image_mean == [0.4, 0.5, 0.6] and loaded.visual.image_std == [0.2, 0.3, 0.25]
