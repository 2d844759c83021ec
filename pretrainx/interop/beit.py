"""BEiT (Bao et al. 2022) in Hugging Face's form: a head of visual tokens, a classifier of pooled patches, or the network.

Its relative positions are one table for all blocks, in the same order there and here: (dy + G - 1)(2G - 1) + dx + G - 1 for
patches, then class token to patch, patch to class token, class token to itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.core.images import Images
from pretrainx.interop import pictures, vit
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.pictures import PictureModel
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.vit import VitConfig

PREFIX = "beit."
ARCHITECTURES = {
    "codes": "BeitForMaskedImageModeling",
    "classes": "BeitForImageClassification",
    "none": "BeitModel",
}
# Of heads that segment pictures, and of what reads the layers between.
ELSEWHERE = """pool_scales use_auxiliary_head auxiliary_loss_weight auxiliary_channels auxiliary_num_convs
    auxiliary_concat_input semantic_loss_ignore_index out_features out_indices stage_names add_fpn
    reshape_hidden_states segmentation_indices""".split()


class BeitModel(PictureModel):
    """Of the family BEiT."""


def to_config(keys: Keys, names: Collection[str]) -> BeitModel:
    """The model of a config.json. Raises DataError for keys and values that have no form here."""
    keys.idle(*ELSEWHERE)
    # Without it hidden states are normalised twice; tables of each layer's own have no place here.
    keys.only("use_mean_pooling", True)
    keys.only("use_absolute_position_embeddings", False)
    keys.only("use_relative_position_bias", False)
    head = "codes" if "lm_head.weight" in names else "classes" if "classifier.weight" in names else "none"
    keys.size("vocab_size", None if head == "codes" else 8192)
    relative = keys.flag("use_shared_relative_position_bias", False)
    model, images = pictures.stack(keys)
    model |= dict(
        positions="relative" if relative else "none",
        mask_token=keys.flag("use_mask_token", False),
        layer_scale=keys.not_negative("layer_scale_init_value", 0.1),
        drop_path=min(keys.not_negative("drop_path_rate", 0.1), 0.99),
        key_bias=False,
        pool="mean",
        pool_norm=head != "codes",
    )
    labels = pictures.classes(keys) if head == "classes" else ()
    keys.finish()
    return BeitModel(VitConfig(**model), Images(**images, classes=labels), head)


def differing(config: BeitModel) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what BEiT has)} of the habits that this family has no form for; beside codes, pooling is in no file."""
    pooling = {"pool_norm": False} if config.head == "codes" else {"pool": "mean", "pool_norm": True}
    return pictures.habits(config, {"key_bias": False} | pooling, ("relative", "none"))


def from_config(config: BeitModel, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    model = config.model
    return pictures.keys_of(config) | {
        **({"vocab_size": vocab_size} if config.head == "codes" else {}),
        "use_mask_token": model.mask_token,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": model.positions == "relative",
        "use_mean_pooling": True,
        "layer_scale_init_value": model.layer_scale,
        "drop_path_rate": model.drop_path,
    }


def table(config: BeitModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`vocab_size`: the visual tokens."""
    model, ours, width = config.model, config.ours, (config.model.width,)
    block, depth, rows = PREFIX + "encoder.layer.{}.", model.depth, ((2 * config.grid - 1) ** 2 + 3,)
    found = pictures.embeddings(PREFIX, config) + pictures.blocks(block, ours, model)
    if model.mask_token:
        found += (Row(PREFIX + "embeddings.mask_token", (f"{ours}mask_token",), (), width, leading=2),)
    if model.positions == "relative":
        place = PREFIX + "encoder.relative_position_bias.relative_position_bias_table"
        found += (Row(place, (f"{ours}relative/table",), rows, (model.heads,)),)
    if model.layer_scale:
        factors = (("lambda_1", "attention_scale"), ("lambda_2", "mlp_scale"))
        found += tuple(
            Row(block + theirs, (f"{ours}layers/{place}/scale",), (), width, layers=depth) for theirs, place in factors
        )
    if config.head == "codes":
        return found + norm("layernorm", f"{ours}final_norm", *width) + linear("lm_head", "head", width, (vocab_size,))
    return found + norm(PREFIX + "pooler.layernorm", f"{ours}pool_norm", *width) + pictures.classifier(config)


FAMILY = Family(
    model_type="beit",
    kind=BeitModel,
    architecture=lambda config: ARCHITECTURES[config.head],
    base="BeitModel",
    prefix=PREFIX,
    heads=("layernorm.", "lm_head.", "classifier."),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {},
    described=pictures.described,
    beside=lambda config: pictures.beside(config, "BeitImageProcessor"),
    # Where a patch lies relative to another, stored by some versions.
    buffers=re.compile(r"beit\..*relative_position_index"),
    renamed=((re.compile(r"(?<![a-z_])shared_position_bias\."), "encoder.relative_position_bias."), *vit.RENAMED),
)
