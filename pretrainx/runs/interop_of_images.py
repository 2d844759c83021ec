"""A model of pictures from another library as a recipe and its parameters, and a run on pictures as such a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.core import config as strict
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.interop import directory
from pretrainx.interop.beit import BeitModel
from pretrainx.interop.directory import Pretrained
from pretrainx.interop.pictures import LABELS, PREPROCESSOR, PictureModel
from pretrainx.interop.vit import VitModel
from pretrainx.interop.vit_mae import MaeModel
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.beit import BeitConfig
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.objectives.mae import MaeConfig
from pretrainx.runs.load import Run
from pretrainx.runs.model_card import card_of
from pretrainx.runs.recipe import Recipe, parse

ROWS = 8  # of an imported model's recipe: what fits a workstation
HEADS = {
    "classes": ("image classifier", "image-classification"),
    "codes": ("masked image model", "image-feature-extraction"),
    "pixels": ("masked autoencoder", "image-feature-extraction"),
    "none": ("vision transformer without a head", "image-feature-extraction"),
}


def read(source: Path) -> tuple[Recipe, Pretrained, Images, list[str]]:
    """(a recipe to go on from, the model as that recipe has it, its pictures, what is to be said).

    A model without classes, or one that predicts the ids of a tokenizer that is not in its files, becomes a classifier whose
    head is new, and zero: such a run gives features, and others start from it. Raises DataError as `directory.read` does.
    """
    found = directory.read(source)
    model, lines = found.config, []
    if PREPROCESSOR not in found.facts["files"]:
        lines.append(f"there is no {PREPROCESSOR}: pictures are normalised with 0.5 and 0.5")
    if model.head in ("none", "codes"):
        found = _as_features(found, lines)
        model = found.config
    images = model.images
    # Narrower ones do not train; see the recipes of text.
    params = "float64" if found.facts["dtype"] == "float64" else "float32"
    objective = {"name": "mae", **strict.as_dict(model.objective)} if model.objective else {"name": "classification"}
    values = {
        "objective": objective,
        "model": {"name": "vit", **strict.as_dict(model.model)},
        "data": {"name": "images", "source": "shapes", "size": images.size, "channels": images.channels},
        "schedule": {"name": "cosine", "peak": 1e-4},
        "precision": {"params": params, "compute": params},
        "train": {"steps": 1000, "batch_size": ROWS},
    }
    lines.append(
        "the recipe's pictures are generated ones: name your own (config.data), which bring their own mean and deviation"
    )
    return parse(values), found, images, lines


def _as_features(found: Pretrained, lines: list[str]) -> Pretrained:
    """The network under a new head of zeros for two classes."""
    model, params = found.config, dict(found.params)
    backbone, left = dict(params.pop("encoder" if model.head == "codes" else "backbone")), []
    if model.head == "codes":
        left = ["lm_head.bias", "lm_head.weight"]
        lines.append(
            "its head names the ids of a visual tokenizer that is not among its files: only the network is taken"
        )
    if backbone.pop("mask_token", None) is not None:
        left.append("beit.embeddings.mask_token")
    width, dtype = model.model.width, backbone["class_token"].dtype
    head = {"kernel": np.zeros((width, len(LABELS)), dtype), "bias": np.zeros(len(LABELS), dtype)}
    lines.append(
        "the model has no classes: it gives features; its head here is new, zero, for two. To train it, start a run on your "
        "data from this one (config.init_from)"
    )
    changed = dataclasses.replace(
        model,
        model=dataclasses.replace(model.model, mask_token=False),
        images=dataclasses.replace(model.images, classes=LABELS),
        head="classes",
    )
    facts = found.facts | {"left_out": sorted([*found.facts["left_out"], *left]), "new_head": True}
    return Pretrained(changed, {"backbone": backbone, "classes": head}, 0, facts)


def write(run: Run, target: Path, facts: dict[str, Any]) -> tuple[PictureModel, int]:
    """Writes the run's model; (what was written, the number of its parameters). ConfigError where it has no form there."""
    model, params = model_of(run, facts)
    codes = getattr(run.objective.model, "codes", 0) if model.head == "codes" else 0
    arrays = jax.tree.map(np.asarray, jax.device_get(params))
    card = _card(run, model, facts)
    directory.write(target, model, arrays, ids=codes, vocab_size=codes, max_length=0, facts=facts, card=card)
    return model, sum(leaf.size for _, leaf in paths.leaves(arrays))


def model_of(run: Run, facts: dict[str, Any]) -> tuple[PictureModel, paths.Tree]:
    """(what is exported of a run, its parameters): the network with its head where that has a form there, or else alone."""
    config, objective = run.config.model, run.config.objective
    if not isinstance(config, VitConfig):
        raise ConfigError(
            "only transformers of pictures have a form there",
            where="config.model.name",
            why=f"the model is a {type(config).__name__.removesuffix('Config')}",
            do="export a run of the model 'vit'; this one stays in its workdir",
        )
    params = dict(run.params)
    if isinstance(objective, MaeConfig):
        return MaeModel(config, _seen(run, run.objective.model.encoder.size), "pixels", objective), params
    if isinstance(objective, BeitConfig):
        params.pop("tokenizer", None)  # it is among the extras
        return BeitModel(config, _seen(run, run.objective.model.encoder.size), "codes"), params
    if "backbone" not in params:
        raise ConfigError(
            "this run's network has no form there",
            where="config.objective.name",
            why=f"the objective is {type(run.objective).__name__}",
            do="export a run whose parameters have a backbone, of classification, mae or beit",
        )
    # Habits of BEiT alone; whatever else differs is named by the family.
    own = config.positions in ("relative", "none") or config.layer_scale or not config.key_bias
    kind, network = BeitModel if own else VitModel, {"backbone": params["backbone"]}
    fresh = facts.get("new_head") and run.step == 0
    images = _seen(run, run.objective.model.backbone.size)
    if not isinstance(objective, ClassificationConfig) or fresh:
        return kind(config, images, "none"), network
    return kind(config, images, "classes"), network | {"classes": params["classes"]}


def _seen(run: Run, size: int) -> Images:
    """The pictures as the network sees them."""
    return dataclasses.replace(run.about, size=size)


def _card(run: Run, model: PictureModel, facts: dict[str, Any]) -> str:
    """README.md of an export. It claims what the run's files say, and leaves the licence to its owner."""
    recipe, config, images = run.config, model.model, model.images
    kind, task = HEADS[model.head]
    shown = recipe.train.batch_size * run.step
    start = facts.get("source", "") or (Path(recipe.init_from).name if recipe.init_from else "")
    numbers = lambda values: ", ".join(f"{value:.4f}" for value in values)
    notes = []
    if model.head == "codes":
        notes.append(
            "- its head names the ids of a visual tokenizer, which is not part of this directory: it stays with the run"
        )
    if model.head == "none" and not facts.get("new_head"):
        notes.append(
            f"- of the objective {type(run.objective).__name__} only the network is here; its heads stay with the run"
        )
    described = [
        f"A {kind}: {config.depth} layers, width {config.width}, {config.heads} heads, pictures of "
        f"{images.size} x {images.size} pixels in patches of {config.patch}.",
        "",
        f"- pixels divided by 255, then normalised with means {numbers(images.mean)} and deviations {numbers(images.std)}",
        *notes,
    ]
    data = f"{recipe.data.source} {' '.join(recipe.data.paths)}".rstrip()
    return card_of(run, task, described, f"{shown:,} pictures", start, data)
