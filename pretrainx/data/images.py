"""Pictures made ready for models: decoded once to one form, split by name, kept in a directory as arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.images import Images
from pretrainx.data import image_sources, shapes
from pretrainx.data.decoding import BadPictureError, decode, limited
from pretrainx.data.directory import once, refuse_another, sync_directory, write_description
from pretrainx.data.image_sources import ImageSource, Picture
from pretrainx.data.prepared_images import FORMAT, KIND, PreparedImages, images_of, labels_of, open_images
from pretrainx.data.sources import files
from pretrainx.data.splits import fraction

# Pictures that are decoded together, by all threads; what they take encoded and decoded is held at once.
CHUNK = 256
SHAPES, SHAPES_SIZE = 4096, 32  # where the configuration does not say
MOST_CLASSES = 1 << 20
TOLD = 20  # skipped pictures of a split that are printed; data.json names all


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """Pictures as rows of one size.

    Attributes:
      source: "shapes" (generated), "digits" (of scikit-learn), "folder", "idx", "npz" or "array_record" (see `image_sources`).
      paths, test_paths: what it reads to train on, and to test on; none for "shapes", which has a test split of its own, a
        quarter as large, and "digits", which has none.
      size: height and width in pixels; 0: as they are, all equal and square (shapes: 32).
      channels: 1 or 3; 0: as they are, all equal.
      held_out: the fraction of pictures kept from training, by the hash of their names.
      bad: what is done about a picture that cannot be decoded: "skip" (counted, named, and above `bad_limit` refused) or
        "stop".
      bad_limit: the fraction of a split's pictures that may be skipped; one always may, unless this is 0.
      pixel_limit: pictures of more pixels are bad.
      limit: so many training pictures, those whose names have the smallest hashes, so that no class is favoured (shapes: the
        first); 0 takes all (shapes: 4096). Skipped ones count.
      cache: directory of prepared data shared between runs; "" means the run's own.
    """

    source: str = dataclasses.field(default="shapes", metadata={"choices": image_sources.KINDS})
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


def prepare_images(config: ImageConfig, directory: str | Path, log: Callable[[str], None] = print) -> PreparedImages:
    """The prepared pictures of a configuration: opened from `directory`, or made there, whole or not at all (see `once`).

    Raises DataError for an unusable source, too many bad pictures, a split without pictures, pictures of several forms where
    none is asked for, a damaged file, or a directory made with another configuration (fields and both values are named).
    """
    directory = Path(directory)
    return once(directory, lambda work: _make(config, work, log), lambda: _reuse(config, directory), log)


def _reuse(config: ImageConfig, directory: Path) -> PreparedImages:
    pictures = open_images(directory)
    refuse_another(directory, pictures.meta["preparing"], config.preparing())
    return pictures


def _make(config: ImageConfig, work: Path, log: Callable[[str], None]) -> None:
    source, test = _sources(config)
    log(f"data: {config.source}, {len(source.names):,} pictures")
    given = [each for each in (source, test) if each]
    for each in given:
        if each.passed_over:
            log(f"data: {each.passed_over:,} files passed over, which are not named as pictures are")
    chosen = {split: (source, numbers) for split, numbers in _split(config, source.names).items()}
    if test:
        chosen["test"] = (test, sorted(range(len(test.names)), key=lambda number: fraction(test.names[number])))
    writers, form = {}, None
    with limited(config.pixel_limit), ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, (of, numbers) in chosen.items():
            writer = writers[split] = _Writer(config, work, split, len(numbers), form, log)
            writer.write(_decoded(config, of, numbers, pool))
            form = writer.form
    training = [label for split in ("train", "held_out") for label in writers[split].labels]
    classes = _classes(training, source.classes)
    splits = {split: writer.finish(classes) for split, writer in writers.items()}
    mean, std = writers["train"].statistics()
    for split, facts in splits.items():
        labelled = f"{len(classes)} classes" if facts["labels_digest"] else "no labels"
        log(f"data: {split}, {facts['pictures']:,} pictures of {'x'.join(map(str, form))}, {labelled}")
    sync_directory(work)
    names = hashlib.sha256("\n".join(source.names).encode("utf-8", "surrogateescape")).hexdigest()
    meta = {
        "format": FORMAT,
        "kind": KIND,
        "preparing": config.preparing(),
        "images": Images(form[0], form[2], classes, mean, std).as_json(),
        "source": {"kind": config.source, "names": names, "passed_over": sum(each.passed_over for each in given)},
        "splits": splits,
    }
    write_description(work, meta)


def _sources(config: ImageConfig) -> tuple[ImageSource, ImageSource | None]:
    """What is split into training and held-out pictures, and what is tested on."""
    if config.source == "digits":
        return image_sources.digits(), None
    if config.source == "shapes":
        wanted, count, size = config.limit or SHAPES, 0, config.size or SHAPES_SIZE
        while wanted:  # as many as it takes for so many training pictures
            wanted -= fraction(image_sources.name_of_shape(0, count)) >= config.held_out
            count += 1
        made = lambda seed, count: image_sources.generated(seed, count, size)
        return made(0, count), made(1, max((config.limit or SHAPES) // 4, len(shapes.CLASSES)))
    read = image_sources.READERS[config.source]
    if not config.test_paths:
        return read(config.paths), None
    every = lambda paths: {path.resolve() for _, path in files(paths, ("",))}
    if both := every(config.paths) & every(config.test_paths):
        raise ConfigError(
            "a file is both trained and tested on",
            where="config.data.test_paths",
            why=str(min(both)),
            do="leave it out of one of config.data.paths and config.data.test_paths",
        )
    return read(config.paths), read(config.test_paths)


def _split(config: ImageConfig, names) -> dict[str, list[int]]:
    """{split: numbers of its pictures}: rising, but what is held out by the hash of its names. Its first so many are looked
    at and measured, and must not be of one class; training pictures are drawn at random anyway."""
    shares = [fraction(name) for name in names]
    train = [number for number, share in enumerate(shares) if share >= config.held_out]
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


Decoded = tuple[str, Picture, np.ndarray | BadPictureError]


def _decoded(config: ImageConfig, source: ImageSource, numbers: list[int], pool) -> Iterator[Decoded]:
    """(name, picture, its pixels or why there are none), in the order of `numbers`."""

    def pixels(picture: Picture) -> np.ndarray | BadPictureError:
        if isinstance(picture.content, BadPictureError):
            return picture.content
        try:
            return decode(picture.content, config.size, config.channels, config.pixel_limit)
        except BadPictureError as error:
            return error

    for first in range(0, len(numbers), CHUNK):
        wanted = numbers[first : first + CHUNK]
        rising = sorted(wanted)
        read = dict(zip(rising, source.read(rising), strict=True))
        chunk = [(source.names[number], read[number]) for number in wanted]
        # Plain arrays cost less than handing them to a thread.
        encoded = any(isinstance(picture.content, bytes) for _, picture in chunk)
        found = (pool.map if encoded else map)(pixels, [picture for _, picture in chunk])
        yield from ((name, picture, array) for (name, picture), array in zip(chunk, found, strict=True))


class _Writer:
    """Appends pictures to the files of one split.

    Attributes:
      form: (S, S, C) of the first picture, of all splits; the others must have it.
      labels: as the source gives them.
    """

    def __init__(self, config: ImageConfig, work: Path, split: str, expected: int, form, log: Callable[[str], None]):
        self.form, self.labels, self._bad = form, [], []
        self._config, self._work, self._split, self._expected, self._log = config, work, split, expected, log
        self._digest, self._first = hashlib.sha256(), ""
        self._histogram: np.ndarray | int = 0

    def write(self, pictures: Iterator[Decoded]) -> None:
        with images_of(self._work, self._split).open("wb") as stream:
            for name, picture, array in pictures:
                if isinstance(array, BadPictureError):
                    self._skip(name, str(array))
                    continue
                self._check(name, array.shape)
                content = np.ascontiguousarray(array)
                stream.write(content)
                self._digest.update(content)
                self.labels.append(picture.label)
                if self._split == "train":
                    values = array.reshape(-1, array.shape[-1]).T
                    self._histogram = self._histogram + np.stack([np.bincount(v, minlength=256) for v in values])
            stream.flush()
            os.fsync(stream.fileno())
        if not self.labels:
            raise DataError(
                "no picture of a split could be used",
                where=f"the split {self._split}",
                why=self._reasons(),
                do="look at these files, or at config.data.source and config.data.paths",
            )
        if len(self._bad) > TOLD:
            self._log(f"data: {len(self._bad)} pictures of {self._split} skipped in all; data.json names them")

    def finish(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Writes the labels; what data.json says of the split."""
        facts = {"pictures": len(self.labels), "digest": self._digest.hexdigest(), "bad": self._bad}
        given = [label is not None for label in self.labels]
        if not any(given):
            return facts | {"labels_digest": None, "counts": []}
        if not all(given):
            raise DataError(
                "some pictures have a label and others have none",
                where=f"the split {self._split}",
                why=f"{sum(given)} of {len(given)} have one",
                do="give all of them a label (in a folder: a directory for each class), or none",
            )
        known = {name: number for number, name in enumerate(classes)}
        numbers = [known.get(label, -1) if isinstance(label, str) else label for label in self.labels]
        labels = np.array(numbers, np.int64)
        if not classes or ((labels < 0) | (labels >= len(classes))).any():
            wrong = next(
                label for label, number in zip(self.labels, numbers, strict=True) if not 0 <= number < len(classes)
            )
            raise DataError(
                "a label is of no class of the training pictures",
                where=f"the split {self._split}",
                why=f"{wrong!r}; {len(classes)} classes: {', '.join(classes[:20])}",
                do="mend the labels, or the names of the classes",
            )
        content = labels.astype("<i4").tobytes()
        with labels_of(self._work, self._split).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        counts = np.bincount(labels, minlength=len(classes)).tolist()
        return facts | {"labels_digest": hashlib.sha256(content).hexdigest(), "counts": counts}

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, standard deviation) of the pixels / 255 per channel, from exact counts; a deviation is at least 1/255."""
        levels, counts = np.arange(256) / 255, np.asarray(self._histogram, np.float64)
        mean = (counts * levels).sum(1) / counts.sum(1)
        variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1)
        return tuple(mean.tolist()), tuple(np.maximum(np.sqrt(variance), 1 / 255).tolist())

    def _skip(self, name: str, why: str) -> None:
        self._bad.append({"name": name, "why": why})
        if self._config.bad == "stop":
            raise DataError(
                "a picture cannot be used",
                where=name,
                why=why,
                do="mend or remove it, or set config.data.bad to 'skip'",
            )
        if len(self._bad) <= TOLD:
            self._log(f"data: skipped {name}: {why}")
        if len(self._bad) > allowed(self._config.bad_limit, self._expected):
            raise DataError(
                "too many pictures cannot be used",
                where=f"the split {self._split}",
                why=f"{len(self._bad)} of {self._expected}, the limit is {self._config.bad_limit:.2%}\n{self._reasons()}",
                do="mend or remove them, or raise config.data.bad_limit",
            )

    def _reasons(self) -> str:
        return "\n".join(f"{bad['name']}: {bad['why']}" for bad in self._bad[-5:])

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        if self.form is None:
            self.form, self._first = shape, f"{name}: {shape}"
        if shape != self.form or shape[0] != shape[1]:
            raise DataError(
                "the pictures differ in form" if shape != self.form else "the pictures are not square",
                where=name,
                why=f"(height, width, channels) {shape}; the first are {self._first or self.form}",
                do="set config.data.size and config.data.channels: all are then cropped, resized and converted to these",
            )


def allowed(limit: float, count: int) -> float:
    """How many of so many pictures may be bad."""
    return max(limit * count, 1) if limit else 0


def _classes(labels: list[str | int | None], given: tuple[str, ...]) -> tuple[str, ...]:
    """The names of classes: as given, the texts among the labels in their order, or "0", "1", ... up to the largest number."""
    found = {label for label in labels if label is not None}
    if not found or given:
        return given if found else ()
    if all(isinstance(label, str) for label in found):
        return tuple(sorted(found))
    largest = max(label for label in found if isinstance(label, int))
    if largest >= MOST_CLASSES:
        raise DataError(
            "a label is too large a number",
            where="config.data.source",
            why=f"{largest}; classes are counted from 0, and there are fewer than {MOST_CLASSES}",
            do="number the classes 0, 1, ..., or give them names",
        )
    return tuple(str(number) for number in range(largest + 1))
