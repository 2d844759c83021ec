"""What data would say of themselves, from the configuration alone: a plan needs no data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pretrainx.core.images import Images
from pretrainx.core.labelled import Labelled
from pretrainx.core.pairs import Pairs
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import shapes
from pretrainx.data.images import ImageConfig
from pretrainx.data.labelled import LabelledConfig
from pretrainx.data.pairs import PairConfig
from pretrainx.data.picture_splits import SHAPES_SIZE, PictureConfig
from pretrainx.data.stored_tokenizer import MADE_HERE
from pretrainx.data.tokenizer import SMALLEST, SPECIAL_NAMES, Tokenizer
from pretrainx.objectives.beit import BeitConfig, TokenizerNetwork
from pretrainx.runs.data import About
from pretrainx.runs.recipe import Recipe

CLASSES = {"class": 2, "tags": 9}  # two opinions; CoNLL-2003's tags
PICTURE, PICTURE_CLASSES = 224, 1000  # ImageNet's as most read it


def about(recipe: Recipe) -> tuple[About, Recipe, tuple[str, ...]]:
    """(what the data say of themselves, the recipe with a tokenizer of pictures filled in, what was assumed, a line each).

    Nothing is prepared or fetched; a tokenizer.json that is there is read.
    """
    data, notes = recipe.data, []
    if isinstance(data, PairConfig):
        return Pairs(images(data, notes), vocabulary(data, notes)), recipe, tuple(notes)
    if isinstance(data, LabelledConfig):
        return labelled(data, notes), recipe, tuple(notes)
    if isinstance(data, ImageConfig):
        found = images(data, notes)
        return found, with_tokenizer(recipe, found, notes), tuple(notes)
    return vocabulary(data, notes), recipe, tuple(notes)


def vocabulary(data: Any, notes: list[str]) -> Vocabulary:
    """As `Tokenizer` numbers them: pad, eos, bytes and merges, special tokens, and the sentinels last."""
    path = Path(data.tokenizer).expanduser()
    if data.tokenizer not in MADE_HERE and path.is_file():
        return Tokenizer.load(path, data.specials, data.sentinels).vocabulary
    names, size = tuple(data.specials), data.vocab_size
    if data.tokenizer == "bytes":
        size = SMALLEST + len(names) + data.sentinels
    elif data.tokenizer != "bpe":
        # What it knows decides the marks around a text; all of them is what most have.
        names = tuple(dict.fromkeys([*names, *(name for name in SPECIAL_NAMES if name not in ("pad", "eos"))]))
        notes.append(
            f"the tokenizer {data.tokenizer} is not here: {size:,} ids (config.data.vocab_size), {', '.join(names)}"
        )
    first = size - data.sentinels - len(names)
    specials = (("pad", 0), ("eos", 1), *((name, first + place) for place, name in enumerate(names)))
    return Vocabulary(size, specials, sentinels=tuple(range(size - 1, size - 1 - data.sentinels, -1)))


def images(data: PictureConfig, notes: list[str]) -> Images:
    """Mean and deviation change no shape, and are left at 0.5."""
    if data.source == "shapes":
        size, channels, classes = data.size or SHAPES_SIZE, 3, len(shapes.CLASSES)
    elif data.source == "digits":
        size, channels, classes = data.size or 8, 1, 10
    else:
        size, channels, classes = data.size or PICTURE, data.channels or 3, PICTURE_CLASSES
        notes.append(f"pictures of {size} x {size} x {channels}, {classes} classes where they have labels")
    half = (0.5,) * channels
    return Images(size, channels, tuple(f"class {number}" for number in range(classes)), half, half)


def labelled(data: LabelledConfig, notes: list[str]) -> Labelled:
    count = CLASSES.get(data.target, 0)
    if count:
        notes.append(f"{count} classes: the data decide")
    return Labelled(
        vocabulary(data, notes),
        data.target,
        tuple(f"class {number}" for number in range(count)),
        pairs=bool(data.second),
    )


def with_tokenizer(recipe: Recipe, pictures: Images, notes: list[str]) -> Recipe:
    """The recipe with the network of its visual tokenizer: the default one, where the run that trains it is not here."""
    objective = recipe.objective
    if not isinstance(objective, BeitConfig) or not objective.tokenizer:
        return recipe
    if Path(objective.tokenizer).is_dir():
        return recipe  # it is asked for its network when the objective is built
    notes.append(f"the run {objective.tokenizer} is not here: a visual tokenizer of the default network")
    network = TokenizerNetwork(pictures, precision=recipe.precision)
    return dataclasses.replace(recipe, objective=dataclasses.replace(objective, network=network))
