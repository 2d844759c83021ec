"""The masked autoencoder (He et al. 2022) in Hugging Face's form, encoder and decoder; its tables of positions are fixed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from pretrainx.core.images import Images
from pretrainx.interop import pictures, vit
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.pictures import PictureModel
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.patches import sincos_table
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.mae import MaeConfig

PREFIX, DECODER = "vit.", "decoder."


class MaeModel(PictureModel):
    """Of the family ViTMAE."""


def to_config(keys: Keys, names: Collection[str]) -> MaeModel:
    """The model of a config.json. Raises DataError for keys and values that have no form here."""
    keys.only("qkv_bias", True)
    model, images = pictures.stack(keys)
    decoder = dict(
        mask_ratio=keys.positive("mask_ratio", 0.75),
        normalise_pixels=keys.flag("norm_pix_loss", False),
        decoder_width=keys.size("decoder_hidden_size", 512),
        decoder_depth=keys.size("decoder_num_hidden_layers", 8),
        decoder_heads=keys.size("decoder_num_attention_heads", 16),
        decoder_mlp_width=keys.size("decoder_intermediate_size", 2048),
    )
    for name, width in (("hidden_size", model["width"]), ("decoder_hidden_size", decoder["decoder_width"])):
        if width % 4:
            keys.refuse(f"{name}: {width}, positions of rows and columns need a multiple of 4")
    if decoder["decoder_width"] % decoder["decoder_heads"]:
        keys.refuse(f"decoder_num_attention_heads: {decoder['decoder_heads']} does not divide decoder_hidden_size")
    if decoder["mask_ratio"] >= 1:
        keys.refuse(f"mask_ratio: {decoder['mask_ratio']}, expected less than 1")
    keys.finish()
    encoder = VitConfig(**model, positions="sincos", initial="xavier")
    return MaeModel(encoder, Images(**images), "pixels", MaeConfig(**decoder))


def differing(config: MaeModel) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what ViTMAE has)} of the habits that this family has no form for; pooling is not in its files."""
    wanted = {"key_bias": True, "layer_scale": 0.0, "mask_token": False}
    return pictures.habits(config, wanted, ("sincos",))


def from_config(config: MaeModel, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    objective = config.objective
    return pictures.keys_of(config) | {
        "qkv_bias": True,
        "mask_ratio": objective.mask_ratio,
        "norm_pix_loss": objective.normalise_pixels,
        "decoder_hidden_size": objective.decoder_width,
        "decoder_num_hidden_layers": objective.decoder_depth,
        "decoder_num_attention_heads": objective.decoder_heads,
        "decoder_intermediate_size": objective.decoder_mlp_width or 4 * objective.decoder_width,
    }


def table(config: MaeModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    model, objective = config.model, config.objective
    decoder = dataclasses.replace(
        model,
        width=objective.decoder_width,
        depth=objective.decoder_depth,
        heads=objective.decoder_heads,
        mlp_width=objective.decoder_mlp_width,
        kv_heads=0,
        head_dim=0,
    )
    width, pixels = (decoder.width,), (model.patch**2 * config.images.channels,)
    return (
        *pictures.embeddings(PREFIX, config),
        *pictures.blocks(PREFIX + "encoder.layer.{}.", config.ours, model),
        *norm(PREFIX + "layernorm", f"{config.ours}final_norm", model.width),
        *linear(DECODER + "decoder_embed", "narrow", (model.width,), width),
        Row(DECODER + "mask_token", ("mask_token",), (), width, leading=2),
        *pictures.blocks(DECODER + "decoder_layers.{}.", "", decoder),
        *norm(DECODER + "decoder_norm", "final_norm", decoder.width),
        *linear(DECODER + "decoder_pred", "head", width, pixels),
    )


def constants(config: MaeModel) -> dict[str, np.ndarray]:
    """The fixed tables of positions, of encoder and decoder."""
    decoder = sincos_table(config.grid, config.objective.decoder_width, True)[None]
    return vit.constants(config) | {DECODER + "decoder_pos_embed": decoder}


FAMILY = Family(
    model_type="vit_mae",
    kind=MaeModel,
    architecture=lambda config: "ViTMAEForPreTraining",
    prefix=PREFIX,
    heads=(DECODER,),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {},
    constants=constants,
    described=pictures.described,
    beside=lambda config: pictures.beside(config, "ViTImageProcessor"),
    # What transformers 5 makes of the decoder's layers when it writes the first format's names.
    renamed=((re.compile(r"decoder\.decoder_encoder\.layer\."), DECODER + "decoder_layers."), *vit.RENAMED),
)
