"""ViT (Dosovitskiy et al. 2021) in Hugging Face's form: a classifier that reads the class token, or the network alone."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from pretrainx.core.images import Images
from pretrainx.interop import pictures
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.pictures import PictureModel
from pretrainx.interop.tensors import Row, norm
from pretrainx.models.patches import sincos_table
from pretrainx.models.vit import VitConfig

PREFIX = "vit."
# Names of the library's modules of today, where files were saved with them and not with those of the first format.
RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(?<![a-z_])layers\.(?=\d)", "encoder.layer."),
        (r"attention\.q_proj\.", "attention.attention.query."),
        (r"attention\.k_proj\.", "attention.attention.key."),
        (r"attention\.v_proj\.", "attention.attention.value."),
        (r"attention\.o_proj\.", "attention.output.dense."),
        (r"mlp\.fc1\.", "intermediate.dense."),
        (r"mlp\.fc2\.", "output.dense."),
    )
)


class VitModel(PictureModel):
    """Of the family ViT."""


def to_config(keys: Keys, names: Collection[str]) -> VitModel:
    """The model of a config.json. Raises DataError for keys and values that have no form here."""
    # A pooler is left out, and a stride is another head's.
    keys.idle("encoder_stride", "pooler_output_size", "pooler_act")
    keys.only("qkv_bias", True)
    head = "classes" if "classifier.weight" in names else "none"
    (model, images), labels = pictures.stack(keys), pictures.classes(keys) if head == "classes" else ()
    keys.finish()
    return VitModel(VitConfig(**model), Images(**images, classes=labels), head)


def differing(config: VitModel) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what ViT has)} of the habits that this family has no form for."""
    wanted = {"key_bias": True, "layer_scale": 0.0, "mask_token": False, "pool": "class", "pool_norm": False}
    return pictures.habits(config, wanted, ("learned", "sincos"))


def table(config: VitModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    model, ours = config.model, config.ours
    place, rows = PREFIX + "embeddings.position_embeddings", (config.grid**2 + 1,)
    learned = model.positions == "learned"
    return (
        *pictures.embeddings(PREFIX, config),
        *((Row(place, (f"{ours}position/table",), rows, (model.width,), leading=1),) if learned else ()),
        *pictures.blocks(PREFIX + "encoder.layer.{}.", ours, model),
        *norm(PREFIX + "layernorm", f"{ours}final_norm", model.width),
        *pictures.classifier(config),
    )


def constants(config: PictureModel) -> dict[str, np.ndarray]:
    """The fixed table of positions, which there is a parameter."""
    if config.model.positions != "sincos":
        return {}
    return {PREFIX + "embeddings.position_embeddings": sincos_table(config.grid, config.model.width, True)[None]}


FAMILY = Family(
    model_type="vit",
    kind=VitModel,
    architecture=lambda config: "ViTModel" if config.head == "none" else "ViTForImageClassification",
    base="ViTModel",
    prefix=PREFIX,
    heads=("classifier.",),
    to_config=to_config,
    differing=differing,
    from_config=lambda config, vocab_size, max_length: pictures.keys_of(config) | {"qkv_bias": True},
    table=table,
    copies=lambda config: {},
    constants=constants,
    described=pictures.described,
    beside=lambda config: pictures.beside(config, "ViTImageProcessor"),
    spare=re.compile(r"vit\.(pooler\.dense\.(weight|bias)|embeddings\.mask_token)"),
    renamed=RENAMED,
)
