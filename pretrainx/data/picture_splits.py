"""What sets of pictures are asked to be, with captions or without, and which of their pictures belong to which split."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.data import image_sources, shapes
from pretrainx.data.image_sources import ImageSource
from pretrainx.data.sources import files
from pretrainx.data.splits import fraction

SHAPES, SHAPES_SIZE = 4096, 32  # where the configuration does not say


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """What pictures with and without captions have in common.

    Attributes:
      source: where they come from; each kind of data says which sources it knows.
      paths, test_paths: what it reads to train on, and to test on; none for "shapes", which has a test split of its own, a
        quarter as large.
      size: height and width in pixels; 0: as they are, all equal and square (shapes: 32).
      channels: 1 or 3; 0: as they are, all equal.
      held_out: the fraction of pictures kept from training, by the hash of their names (or groups, where they have some).
      bad: what is done about a picture that cannot be decoded: "skip" (counted, named, and above `bad_limit` refused) or
        "stop".
      bad_limit: the fraction of a split's pictures that may be skipped; one always may, unless this is 0.
      pixel_limit: pictures of more pixels are bad.
      limit: so many training pictures, those whose names have the smallest hashes, so that no class is favoured (shapes: the
        first); 0 takes all (shapes: 4096). Skipped ones count.
      cache: directory of prepared data shared between runs; "" means the run's own.
    """

    source: str = "shapes"
    paths: tuple[str, ...] = ()
    test_paths: tuple[str, ...] = ()
    size: int = dataclasses.field(default=0, metadata={"min": 0, "max": 4096})
    channels: int = dataclasses.field(default=0, metadata={"choices": (0, 1, 3)})
    held_out: float = dataclasses.field(default=0.05, metadata={"min": 0.0, "max": 0.9})
    bad: str = dataclasses.field(default="skip", metadata={"choices": ("skip", "stop")})
    bad_limit: float = dataclasses.field(default=0.01, metadata={"min": 0.0, "max": 0.5})
    pixel_limit: int = dataclasses.field(default=1 << 26, metadata={"min": 1})
    limit: int = dataclasses.field(default=0, metadata={"min": 0})
    cache: str = ""

    def __post_init__(self):
        image_sources.check_paths(self.source, self.paths, self.test_paths)

    def preparing(self) -> dict[str, Any]:
        """The fields that decide what is prepared, as plain JSON values."""
        fields = dataclasses.asdict(self)
        del fields["cache"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def given_sources(
    config: PictureConfig, read: Callable[[tuple[str, ...]], ImageSource]
) -> tuple[ImageSource, ImageSource | None]:
    """What is split into training and held-out pictures, and what is tested on, of a source that reads paths.

    Raises ConfigError for a file that is in both, and for a picture that is named by files of both.
    """
    if not config.test_paths:
        return read(config.paths), None
    every = lambda paths: {str(path.resolve()) for _, path in files(paths, ("",))}
    _refuse_shared("a file", every(config.paths) & every(config.test_paths))
    train, test = read(config.paths), read(config.test_paths)
    # Resolved here only: it asks the disk about each. Not by Path.resolve, which refuses a link to itself.
    named = lambda source: {os.path.realpath(path) for path in source.files}
    _refuse_shared("a picture", named(train) & named(test))
    return train, test


def _refuse_shared(what: str, both: set[str]) -> None:
    """ConfigError where there are paths of both."""
    if both:
        raise ConfigError(
            f"{what} is both trained and tested on",
            where="config.data.test_paths",
            why=min(both),
            do="leave it out of one of config.data.paths and config.data.test_paths",
        )


def generated_sources(
    config: PictureConfig, make: Callable[[int, int, int], ImageSource]
) -> tuple[ImageSource, ImageSource]:
    """The same of generated shapes; `make(seed, count, size)` gives so many of a seed."""
    wanted, count, size = config.limit or SHAPES, 0, config.size or SHAPES_SIZE
    while wanted:  # as many as it takes for so many training pictures
        wanted -= fraction(image_sources.name_of_shape(0, count)) >= config.held_out
        count += 1
    return make(0, count, size), make(1, max((config.limit or SHAPES) // 4, len(shapes.CLASSES)), size)


def numbers_of_splits(config: PictureConfig, source: ImageSource) -> dict[str, list[int]]:
    """{split: numbers of its pictures}: rising, but what is held out by the hash of its names. Its first so many are looked
    at and measured, and must not be of one class; training pictures are drawn at random anyway."""
    names = source.names
    shares = [fraction(name) for name in names]
    deciding = [fraction(group) for group in source.groups] if source.groups else shares
    train = [number for number, share in enumerate(deciding) if share >= config.held_out]
    held_out = sorted(set(range(len(names))) - set(train), key=lambda number: shares[number])
    if not train or not held_out:
        what, do = ("every picture is held out", "lower") if held_out else ("no picture is held out", "raise")
        raise DataError(
            what if names else "the source has no pictures",
            where="config.data.held_out" if names else "config.data.paths",
            why=f"{len(held_out)} of {len(names)} pictures have a name whose hash is below {config.held_out}",
            do=f"{do} config.data.held_out, or add pictures",
        )
    if config.limit:
        train = sorted(sorted(train, key=lambda number: shares[number])[: config.limit])
    return {"train": train, "held_out": held_out}


def numbers_of_test(source: ImageSource) -> list[int]:
    """All pictures of what is tested on, by the hash of their names."""
    return sorted(range(len(source.names)), key=lambda number: fraction(source.names[number]))
