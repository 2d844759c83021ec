"""A model of pictures and captions from another library as a recipe and its parameters, and such a run as a model of theirs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.core import config as strict
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.pairs import Pairs
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.interop import directory
from pretrainx.interop.clip import ClipModel
from pretrainx.interop.coca import CocaModel
from pretrainx.interop.directory import Pretrained
from pretrainx.interop.pairs import PairModel
from pretrainx.interop.pictures import PREPROCESSOR
from pretrainx.interop.siglip import SiglipModel
from pretrainx.models.coca import CocaConfig as CocaModelConfig
from pretrainx.objectives.clip import ClipConfig
from pretrainx.objectives.coca import CocaConfig
from pretrainx.objectives.siglip import SiglipConfig
from pretrainx.runs.load import Run
from pretrainx.runs.model_card import card_of
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.training import state as states

ROWS = 8  # of an imported model's recipe: what fits a workstation
# Of each family: special tokens that captions are framed in beside the end, and a model's name on its card.
FRAMES = {"clip": ("bos",), "coca": ("bos",), "siglip": ()}
KINDS = {
    ClipConfig: (ClipModel, "dual encoder of pictures and captions (CLIP)", "zero-shot-image-classification"),
    SiglipConfig: (SiglipModel, "dual encoder of pictures and captions (SigLIP)", "zero-shot-image-classification"),
    CocaConfig: (CocaModel, "contrastive captioner (CoCa)", "image-to-text"),
}


def read(source: Path, tokenizer_file: Path, kind: str) -> tuple[Recipe, Pretrained, Tokenizer, Pairs, list[str]]:
    """(a recipe to go on from, the model as that recipe has it, the tokenizer, its data, what is to be said).

    Raises DataError as `directory.read` and `Tokenizer.load` do, and for a tokenizer that frames captions otherwise than the
    model was trained with.
    """
    tokenizer = Tokenizer.load(tokenizer_file, FRAMES[kind])
    vocabulary, lines = tokenizer.vocabulary, []
    found = directory.read(source, vocabulary.size)
    model, images = found.config, found.config.images
    if kind != "coca" and PREPROCESSOR not in found.facts["files"]:
        lines.append(f"there is no {PREPROCESSOR}: pictures are normalised as the library does without one")
    found = _padded(found, vocabulary, source, lines)
    _refuse_another("ends", "eos", model.end, vocabulary, source)
    # Narrower ones do not train; see the recipes of text.
    params = "float64" if found.facts["dtype"] == "float64" else "float32"
    name = "coca" if isinstance(model.model, CocaModelConfig) else "dual_encoder"
    data = {"name": "pairs", "source": "shapes", "size": images.size, "channels": images.channels}
    data |= {"tokenizer": str(tokenizer_file), "length": model.max_length, "specials": list(FRAMES[kind])}
    values = {
        "objective": {"name": kind},
        "model": {"name": name, **strict.as_dict(model.model)},
        "data": data,
        "schedule": {"name": "cosine", "peak": 1e-4},
        "precision": {"params": params, "compute": params},
        "train": {"steps": 1000, "batch_size": ROWS},
    }
    lines.append(
        "the recipe's pairs are generated ones: name your own (config.data), which bring their own mean and deviation"
    )
    return parse(values), found, tokenizer, Pairs(images, vocabulary), lines


def _padded(found: Pretrained, vocabulary: Vocabulary, source: Path, lines: list[str]) -> Pretrained:
    """The model with a row for a padding that the tokenizer's file does not have: the row of the token that stood there."""
    pad, wanted = vocabulary.special("pad"), found.config.pad
    if wanted < 0 or not vocabulary.added:
        _refuse_another("fills captions up", "pad", wanted, vocabulary, source)
        return found
    if wanted >= found.vocab_size:
        raise DataError(
            "captions are filled up with a token that the model does not know",
            where=f"{source}: pad_token_id",
            why=f"id {wanted}, its table has {found.vocab_size} rows",
            do="name the padding that the model was trained with",
        )
    table = found.params["text"]["token"]["table"].copy()
    table[pad] = table[wanted]
    text = found.params["text"] | {"token": {"table": table}}
    lines.append(f"captions are filled up with id {pad}, whose row is that of id {wanted}, the padding of the source")
    facts = found.facts | {"pad": wanted}
    return dataclasses.replace(found, params=found.params | {"text": text}, facts=facts)


def _refuse_another(what: str, name: str, wanted: int, vocabulary: Vocabulary, source: Path) -> None:
    """DataError where a special token that the text tower sees has another id there than here."""
    if wanted >= 0 and vocabulary.special(name) != wanted:
        raise DataError(
            f"the tokenizer {what} with another token than the model was trained with",
            where=str(source),
            why=f"{name!r} is id {vocabulary.special(name)} in its file, the configuration has {wanted}",
            do="give the tokenizer and the configuration of one and the same model",
        )


def write(run: Run, target: Path, facts: dict[str, Any], tokenizer_file: Path) -> tuple[PairModel, int]:
    """Writes the run's model; (what was written, the number of its parameters). ConfigError where it has no form there."""
    vocabulary, recipe = run.tokenizer.vocabulary, run.config
    vocab_size = facts.get("vocab_size", vocabulary.predicted)
    arrays = jax.tree.map(np.asarray, jax.device_get(run.params))
    model = model_of(run, arrays, facts, vocab_size)
    directory.fitting(model)  # refused before its sizes are described
    directory.write(
        target,
        model,
        arrays,
        ids=vocabulary.size,
        vocab_size=vocab_size,
        max_length=model.max_length or recipe.data.length,
        tokenizer=tokenizer_file,
        special={name: token for name, token in vocabulary.specials if token < vocab_size},
        facts=facts,
        card=_card(run, model, facts, vocab_size),
    )
    return model, states.layout(run.objective, recipe.train.batch_size).parameters(vocab_size)


def model_of(run: Run, params: paths.Tree, facts: dict[str, Any], vocab_size: int) -> PairModel:
    """What is exported of a run. ConfigError where a padding that is in no file was trained to be another than its source's."""
    kind, _, _ = KINDS[type(run.config.objective)]
    vocabulary, table = run.tokenizer.vocabulary, params["text"]["token"]["table"]
    images = dataclasses.replace(run.about.images, size=run.objective.size, classes=())
    if kind is ClipModel:
        return ClipModel(run.config.model, images, end=vocabulary.special("eos"))
    pad = vocabulary.special("pad")
    instead = facts.get("pad", pad)  # where the tokenizer's file has none
    if max(pad, instead) >= vocab_size and not (instead < vocab_size and np.array_equal(table[pad], table[instead])):
        raise ConfigError(
            "the padding that the text tower sees has no form there",
            where="config.data.tokenizer",
            why=f"the tokenizer's file has none; here it is id {pad}, which was trained apart from all that the file has",
            do="train with a tokenizer.json that has a padding token",
        )
    return kind(run.config.model, images, pad=instead)


def _card(run: Run, model: PairModel, facts: dict[str, Any], vocab_size: int) -> str:
    """README.md of an export. It claims what the run's files say, and leaves the licence to its owner."""
    recipe, image, text = run.config, run.config.model.image, run.config.model.text
    _, kind, task = KINDS[type(recipe.objective)]
    start = facts.get("source", "") or (Path(recipe.init_from).name if recipe.init_from else "")
    numbers = lambda values: ", ".join(f"{value:.4f}" for value in values)
    sizes = lambda tower: f"{tower.depth} layers, width {tower.width}, {tower.heads} heads"
    described = [
        f"A {kind}: of pictures {sizes(image)}, {model.images.size} x {model.images.size} pixels in patches of {image.patch}; "
        f"of captions {sizes(text)}, vocabulary {vocab_size}, up to {model.max_length or recipe.data.length} tokens.",
        "",
        f"- pixels divided by 255, then normalised with means {numbers(model.images.mean)} and deviations "
        f"{numbers(model.images.std)}",
    ]
    data = f"{recipe.data.source} {' '.join(recipe.data.paths)}".rstrip()
    seen = f"{recipe.train.batch_size * run.step:,} pairs"
    return card_of(run, task, described, seen, start, data)
