"""The data of a run: prepared text, pictures, pictures with captions, or labelled text. All answer the same questions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrainx.core.images import Images
from pretrainx.core.labelled import Labelled
from pretrainx.core.pairs import Pairs
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import text
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.labelled import LabelledConfig, prepare_labelled
from pretrainx.data.pairs import PairConfig, prepare_pairs
from pretrainx.data.prepared import PreparedText
from pretrainx.data.prepared_images import PreparedImages
from pretrainx.data.prepared_labelled import PreparedLabelled
from pretrainx.data.prepared_pairs import PreparedPairs

Prepared = PreparedText | PreparedImages | PreparedPairs | PreparedLabelled
# What data say of themselves, and what models and objectives are built for.
About = Vocabulary | Images | Pairs | Labelled
MAKERS = ((ImageConfig, prepare_images), (PairConfig, prepare_pairs), (LabelledConfig, prepare_labelled))


def last_split(data: Prepared) -> str:
    """What a finished run is measured on; while it trains the test split is not looked at."""
    return "test" if "test" in data.splits else "held_out"


def prepare(config: Any, directory: str | Path, log: Callable[[str], None] = print) -> Prepared:
    """The prepared data of a section `config.data`: opened from `directory`, or made there."""
    make = next((make for kind, make in MAKERS if isinstance(config, kind)), text.prepare)
    return make(config, directory, log)
