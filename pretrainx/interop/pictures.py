"""What families of models of pictures have in common: their pictures, their stacks, their image processor's file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pretrainx.core.errors import DataError
from pretrainx.core.images import Images
from pretrainx.interop.family import plain_heads, unlike
from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Patches, Row, linear, norm
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.mae import MaeConfig

PREPROCESSOR = "preprocessor_config.json"
# Labels that a config.json without names has there.
LABELS = ("LABEL_0", "LABEL_1")
BICUBIC = 3  # Pillow's number


@dataclass(frozen=True)
class PictureModel:
    """What a directory says of a model of pictures: for text a section config.model says it all.

    Attributes:
      model: the section config.model.
      images: the pictures that the network sees: their side, channels, classes, and what they are normalised with.
      head: "classes", "codes" (of a visual tokenizer), "pixels" or "none".
      objective: of a masked autoencoder, for its decoder's sizes and what it recovers.
    """

    model: VitConfig
    images: Images
    head: str = "none"
    objective: MaeConfig | None = None

    max_length = 0  # of rows of text

    @property
    def ours(self) -> str:
        """The network's place among our parameters."""
        return "encoder/" if self.head in ("codes", "pixels") else "backbone/"

    @property
    def grid(self) -> int:
        return self.model.grid(self.images.size)


def stack(
    keys: Keys, patch: int = 16, epsilon: float = 1e-12, activation: str = "gelu"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of VitConfig, fields of Images) that all these families have keys for, and what some are where left out."""
    keys.idle("hidden_dropout_prob", "attention_probs_dropout_prob", "problem_type")
    width, heads = keys.size("hidden_size", 768), keys.size("num_attention_heads", 12)
    if width % heads:
        keys.refuse(f"num_attention_heads: {heads} does not divide hidden_size {width}")
    size, patch, channels = keys.size("image_size", 224), keys.size("patch_size", patch), keys.size("num_channels", 3)
    if size % patch:
        keys.refuse(f"patch_size: {patch} does not divide image_size {size}")
    if channels not in (1, 3):
        keys.refuse(f"num_channels: {channels}, supported: 1 or 3")
    model = dict(
        width=width,
        depth=keys.size("num_hidden_layers", 12),
        heads=heads,
        mlp_width=keys.size("intermediate_size", 3072),
        norm_epsilon=keys.positive("layer_norm_eps", epsilon),
        activation=keys.activation("hidden_act", activation),
        initial_std=keys.initial_std(),
        patch=patch,
    )
    images = dict(size=size, channels=channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    return model, images


def classes(keys: Keys) -> tuple[str, ...]:
    """The names of the labels."""
    names = keys.section("id2label")
    if names.keys() != {str(index) for index in range(len(names))}:
        keys.refuse(f"id2label: labels {', '.join(names)}, expected 0, 1, ...")
        return LABELS
    return tuple(str(names[str(index)]) for index in range(len(names))) or LABELS


def habits(config: PictureModel, wanted: dict[str, Any], positions: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what the family has)} of the habits that differ from `wanted` and from what all families have."""
    common = {"norm": "layer", "norm_first": True, "gated": False, "bias": True, "qk_norm": False, "class_token": True}
    found = unlike(config.model, common | wanted) | plain_heads(config.model)
    if config.model.positions not in positions:
        found["positions"] = (config.model.positions, " or ".join(positions))
    return found


def keys_of(config: PictureModel) -> dict[str, Any]:
    """The keys of config.json that these families share."""
    model, images = config.model, config.images
    named = {str(index): name for index, name in enumerate(images.classes)}
    labels = {"id2label": named, "label2id": {name: int(index) for index, name in named.items()}}
    return {
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.mlp_size,
        "hidden_act": ACTIVATIONS[model.activation][0],
        "layer_norm_eps": model.norm_epsilon,
        # Ours is on embeddings and residual branches, never on attention weights.
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": model.initial_std,
        "image_size": images.size,
        "patch_size": model.patch,
        "num_channels": images.channels,
        **(labels if config.head == "classes" else {}),
    }


def embeddings(theirs: str, config: PictureModel) -> tuple[Row, ...]:
    """Patches and the class token."""
    model, front = config.model, theirs + "embeddings."
    width, pixels = (model.width,), (model.patch**2 * config.images.channels,)
    projection = front + "patch_embeddings.projection"
    kernel = (f"{config.ours}patches/kernel",)
    return (
        Patches(f"{projection}.weight", kernel, pixels, width, side=model.patch, channels=config.images.channels),
        Row(f"{projection}.bias", (f"{config.ours}patches/bias",), (), width),
        Row(front + "cls_token", (f"{config.ours}class_token",), (), width, leading=2),
    )


def blocks(theirs: str, ours: str, model: VitConfig) -> tuple[Row, ...]:
    """The stack; `theirs` has {} for a layer's number."""
    width, hidden, heads, depth = (model.width,), (model.mlp_size,), (model.heads, model.head_size), model.depth
    normed = lambda name, place: norm(theirs + name, f"{ours}layers/{place}", model.width, depth)
    dense = lambda name, place, *sizes, bias=True: linear(
        theirs + name, f"{ours}layers/{place}", *sizes, depth, bias=bias
    )
    return (
        *normed("layernorm_before", "attention_norm"),
        *dense("attention.attention.query", "attention/query", width, heads),
        *dense("attention.attention.key", "attention/key", width, heads, bias=model.key_bias),
        *dense("attention.attention.value", "attention/value", width, heads),
        *dense("attention.output.dense", "attention/out", heads, width),
        *normed("layernorm_after", "mlp_norm"),
        *dense("intermediate.dense", "mlp/up", width, hidden),
        *dense("output.dense", "mlp/down", hidden, width),
    )


def classifier(config: PictureModel) -> tuple[Row, ...]:
    """The head on the features, where there is one."""
    sizes = (config.model.width,), (len(config.images.classes),)
    return linear("classifier", "classes", *sizes) if config.head == "classes" else ()


def described(config: PictureModel, files: dict[str, Any], where: str) -> PictureModel:
    """The model with what the image processor's file says of pixels; without one they are normalised with 0.5 and 0.5.

    How it brings pictures to the model's size is not followed: that is not the network's. DataError for other pixels.
    """
    values, channels = files.get(PREPROCESSOR, {}), config.images.channels
    factor = values.get("rescale_factor", 1 / 255)
    of_bytes = type(factor) in (int, float) and abs(factor * 255 - 1) < 1e-6
    if not of_bytes or values.get("do_rescale", True) is not True:
        why = f"rescale_factor {factor}, do_rescale {values.get('do_rescale', True)}; supported: 1/255, true"
        raise _other_pixels(where, why)
    if values.get("do_normalize", True) is not True:
        found = (0.0,) * channels, (1.0,) * channels
    else:
        found = tuple(values.get(name) or [0.5] * channels for name in ("image_mean", "image_std"))
    for name, numbers in zip(("image_mean", "image_std"), found, strict=True):
        real = isinstance(numbers, (list, tuple)) and all(type(number) in (int, float) for number in numbers)
        if not real or len(numbers) != channels or (name == "image_std" and min(numbers) <= 0):
            raise _other_pixels(where, f"{name}: {numbers}, expected {channels} numbers")
    mean, std = (tuple(map(float, numbers)) for numbers in found)
    return dataclasses.replace(config, images=dataclasses.replace(config.images, mean=mean, std=std))


def _other_pixels(where: str, why: str) -> DataError:
    return DataError(
        "the image processor's pixels have no form here",
        where=f"{where}: {PREPROCESSOR}",
        why=why,
        do="nothing is guessed: give the file that the model was trained with",
    )


def beside(config: PictureModel, kind: str) -> dict[str, dict[str, Any]]:
    """The file of an image processor of the class `kind`."""
    images = config.images
    values = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": images.size, "width": images.size},
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
    }
    return {PREPROCESSOR: values}
