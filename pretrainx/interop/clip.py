"""CLIP (Radford et al. 2021) in Hugging Face's form: two transformers, and a matrix of each into the shared space."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.core.images import Images
from pretrainx.interop import pairs, pictures
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.pairs import PairModel
from pretrainx.interop.pictures import PREPROCESSOR
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.text_tower import TextTowerConfig
from pretrainx.models.vit import VitConfig

# Of a config.json without that key.
VOCAB = 49408
# Of an image processor's file without those keys.
PIXELS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
# The id that old files name as the caption's end. It is not: where it stands the highest id is looked for.
HIGHEST = 2


class ClipModel(PairModel):
    """Of the family CLIP."""


def to_config(keys: Keys, names: Collection[str]) -> ClipModel:
    """The model of a config.json. Raises DataError for keys and values that have no form here."""
    keys.idle("logit_scale_init_value", "initializer_factor")
    embedding = keys.size("projection_dim", 512)
    of_text, of_image = pairs.section(keys, "text"), pairs.section(keys, "vision")
    keys.finish()
    vocab_size, end = of_text.size("vocab_size", VOCAB), of_text.index("eos_token_id", VOCAB - 1)
    text = pairs.text_fields(of_text, 512, 8, 77, "quick_gelu", 1e-5)
    image, pixels = pictures.stack(of_image, 32, 1e-5, "quick_gelu")
    for tower in (of_text, of_image):
        tower.idle("projection_dim")
        tower.finish()
    image = VitConfig(**image, embedding_norm=True, patch_bias=False)
    model = DualEncoderConfig(image, TextTowerConfig(**text), embedding, "both")
    return ClipModel(model, Images(**pixels), vocab_size - 1 if end == HIGHEST else end)


def differing(config: ClipModel) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what CLIP has)} of the habits that this family has no form for."""
    image = {"class_token": True, "pool": "class", "patch_bias": False, "embedding_norm": True}
    return pairs.differing(config, {"projection": "both"}, image, {"causal": True, "pool": "end"})


def from_config(config: ClipModel, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    model, shared = config.model, {"projection_dim": config.model.embedding}
    text = pairs.text_keys(model.text, vocab_size, max_length)
    return shared | {
        "text_config": {"model_type": "clip_text_model", **text, **shared, "eos_token_id": config.end},
        "vision_config": {"model_type": "clip_vision_model", **pairs.image_keys(model.image, config.images), **shared},
    }


def table(config: ClipModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    model, space = config.model, (config.model.embedding,)
    image, text = (model.image.width,), (model.text.width,)
    return (
        *pairs.hugging_face(config, vocab_size, ids, max_length),
        Row("vision_model.embeddings.class_embedding", ("image/class_token",), (), image),
        *norm("vision_model.pre_layrnorm", "image/embedding_norm", model.image.width),
        *linear("visual_projection", "space/image", image, space, bias=False),
        *linear("text_projection", "space/text", text, space, bias=False),
        Row("logit_scale", ("space/log_scale",), (), ()),
    )


def described(config: ClipModel, files: dict[str, Any], where: str) -> ClipModel:
    """The model with what the image processor's file says of pixels."""
    defaults = PIXELS if config.images.channels == 3 else {}
    return pictures.described(config, files | {PREPROCESSOR: defaults | files.get(PREPROCESSOR, {})}, where)


FAMILY = Family(
    model_type="clip",
    kind=ClipModel,
    architecture=lambda config: "CLIPModel",
    prefix="",
    heads=(),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {},
    described=described,
    beside=lambda config: pairs.beside(config, "CLIPImageProcessor", do_center_crop=False),
    buffers=re.compile(r"(text|vision)_model\.embeddings\.position_ids"),
    rows=lambda values: pairs.vocab_size_of(values, VOCAB),
)
