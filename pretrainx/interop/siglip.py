"""SigLIP (Zhai et al. 2023) in Hugging Face's form: a learned query reads the picture, the last position the caption."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.core.images import Images
from pretrainx.interop import pairs, pictures
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.pairs import PairModel
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.text_tower import TextTowerConfig
from pretrainx.models.vit import VitConfig

# Of a config.json without these keys.
VOCAB, PAD = 32000, 1


class SiglipModel(PairModel):
    """Of the family SigLIP."""


def to_config(keys: Keys, names: Collection[str]) -> SiglipModel:
    """The model of a config.json. Raises DataError for keys and values that have no form here."""
    keys.idle("initializer_factor")
    of_text, of_image = pairs.section(keys, "text"), pairs.section(keys, "vision")
    keys.finish()
    of_text.size("vocab_size", VOCAB)
    pad = of_text.index("pad_token_id", PAD)
    text = pairs.text_fields(of_text, 768, 12, 64, "gelu_pytorch_tanh", 1e-6)
    image, pixels = pictures.stack(of_image, 16, 1e-6, "gelu_pytorch_tanh")
    embedding = of_text.size("projection_size", text["width"])
    of_image.only("vision_use_head", True)
    if embedding != image["width"]:
        of_text.refuse(f"projection_size: {embedding}, expected vision_config's hidden_size, {image['width']}")
    for tower in (of_text, of_image):
        tower.finish()
    image = VitConfig(**image, class_token=False, pool="map")
    text = TextTowerConfig(**text, causal=False, pool="last")
    return SiglipModel(DualEncoderConfig(image, text, embedding, "text"), Images(**pixels), pad=pad)


def differing(config: SiglipModel) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what SigLIP has)} of the habits that this family has no form for."""
    image = {"class_token": False, "pool": "map", "patch_bias": True, "embedding_norm": False}
    return pairs.differing(config, {"projection": "text"}, image, {"causal": False, "pool": "last"})


def from_config(config: SiglipModel, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    model = config.model
    text = pairs.text_keys(model.text, vocab_size, max_length)
    text |= {"projection_size": model.embedding, "pad_token_id": config.pad}
    image = pairs.image_keys(model.image, config.images) | {"vision_use_head": True}
    return {
        "text_config": {"model_type": "siglip_text_model", **text},
        "vision_config": {"model_type": "siglip_vision_model", **image},
    }


def table(config: SiglipModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    model, image, head = config.model, config.model.image, "vision_model.head."
    width, heads, place = (image.width,), (image.heads, image.head_size), "image/map_head/"
    bias = Row("vision_model.embeddings.patch_embedding.bias", ("image/patches/bias",), (), width)
    return (
        *pairs.hugging_face(config, vocab_size, ids, max_length),
        bias,
        Row(head + "probe", (place + "pool/query",), (1,), width, leading=1),
        *pairs.fused(head + "attention", place + "pool", image.width, heads, "query_kernel"),
        *norm(head + "layernorm", place + "norm", image.width),
        *pairs.mlp(head + "mlp.fc1", head + "mlp.fc2", place + "mlp", image),
        *linear("text_model.head", "space/text", (model.text.width,), (model.embedding,)),
        Row("logit_scale", ("space/log_scale",), (), (), leading=1),
        Row("logit_bias", ("space/offset",), (), (), leading=1),
    )


FAMILY = Family(
    model_type="siglip",
    kind=SiglipModel,
    architecture=lambda config: "SiglipModel",
    prefix="",
    heads=(),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {},
    described=pictures.described,
    beside=lambda config: pairs.beside(config, "SiglipImageProcessor"),
    buffers=re.compile(r"(text|vision)_model\.embeddings\.position_ids"),
    rows=lambda values: pairs.vocab_size_of(values, VOCAB),
)
