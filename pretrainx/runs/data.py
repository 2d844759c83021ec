"""The data of a run: prepared text or prepared pictures. Both answer the same questions; only what they are of differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrainx.core.images import Images
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import text
from pretrainx.data.images import ImageConfig, prepare_images
from pretrainx.data.prepared import PreparedText
from pretrainx.data.prepared_images import PreparedImages

Prepared = PreparedText | PreparedImages
# What data say of themselves, and what models and objectives are built for.
About = Vocabulary | Images


def prepare(config: Any, directory: str | Path, log: Callable[[str], None] = print) -> Prepared:
    """The prepared data of a section `config.data`: opened from `directory`, or made there."""
    make = prepare_images if isinstance(config, ImageConfig) else text.prepare
    return make(config, directory, log)
