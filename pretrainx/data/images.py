"""Pictures made ready for models: decoded once to one form, split by name, kept in a directory as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from pretrainx.data import image_sources
from pretrainx.data.directory import once, refuse_another, sync_directory, write_description
from pretrainx.data.image_sources import ImageSource
from pretrainx.data.picture_splits import PictureConfig, generated_sources, given_sources
from pretrainx.data.picture_writer import PictureWriter, write_splits
from pretrainx.data.prepared_images import FORMAT, KIND, PreparedImages, open_images


@dataclasses.dataclass(frozen=True)
class ImageConfig(PictureConfig):
    """Pictures as rows of one size.

    Attributes:
      source: "shapes" (generated), "digits" (of scikit-learn), "folder", "idx", "npz" or "array_record" (see `image_sources`).
        The digits take no paths, and have no test split.
      labels: so many training pictures of each class are read; 0 is all of them. labels_seed: which; more of one seed contain
        the fewer.
    """

    source: str = dataclasses.field(default="shapes", metadata={"choices": image_sources.KINDS})
    labels: int = dataclasses.field(default=0, metadata={"min": 0})
    labels_seed: int = dataclasses.field(default=0, metadata={"min": 0, "max": 2**32 - 1})

    def preparing(self):
        fields = super().preparing()
        del fields["labels"], fields["labels_seed"]  # one directory serves any number of them
        return fields


def prepare_images(config: ImageConfig, directory: str | Path, log: Callable[[str], None] = print) -> PreparedImages:
    """The prepared pictures of a configuration: opened from `directory`, or made there, whole or not at all (see `once`).

    Raises DataError for an unusable source, too many bad pictures, a split without pictures, pictures of several forms where
    none is asked for, a damaged file, or a directory made with another configuration (fields and both values are named).
    """
    directory = Path(directory)
    found = once(directory, lambda work: _make(config, work, log), lambda: _reuse(config, directory), log)
    return dataclasses.replace(found, labels=config.labels, labels_seed=config.labels_seed)


def _reuse(config: ImageConfig, directory: Path) -> PreparedImages:
    pictures = open_images(directory)
    refuse_another(directory, pictures.meta["preparing"], config.preparing())
    return pictures


def _make(config: ImageConfig, work: Path, log: Callable[[str], None]) -> None:
    _, _, meta = write_splits(config, work, *_sources(config), PictureWriter, log)
    sync_directory(work)
    write_description(work, {"format": FORMAT, "kind": KIND, **meta})


def _sources(config: ImageConfig) -> tuple[ImageSource, ImageSource | None]:
    """What is split into training and held-out pictures, and what is tested on."""
    if config.source == "digits":
        return image_sources.digits(), None
    if config.source == "shapes":
        return generated_sources(config, image_sources.generated)
    return given_sources(config, image_sources.READERS[config.source])
