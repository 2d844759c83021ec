"""Pictures on their way from a source to the files of a split: decoded in threads, checked, counted, written one by one."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.core.images import Images
from pretrainx.data import picture_sizes
from pretrainx.data.decoding import BadPictureError, limited, measured
from pretrainx.data.image_sources import ImageSource, Picture
from pretrainx.data.picture_splits import PictureConfig, numbers_of_splits, numbers_of_test
from pretrainx.data.prepared_images import images_of, labels_of

# Pictures that are decoded together, by all threads; what they take encoded and decoded is held at once.
CHUNK = 256
MOST_CLASSES = 1 << 20
TOLD = 20  # skipped pictures of a split that are printed; data.json names all


def write_splits(
    config: PictureConfig,
    work: Path,
    source: ImageSource,
    test: ImageSource | None,
    make_writer: Callable[..., PictureWriter],
    log: Callable[[str], None],
) -> tuple[dict[str, PictureWriter], Images, dict[str, Any]]:
    """Writes the pictures of all splits; ({split: its writer}, what the pictures are, what data.json says of them).

    `make_writer` is PictureWriter, or a class of it that keeps more of each picture.
    """
    log(f"data: {config.source}, {len(source.names):,} pictures")
    given = [each for each in (source, test) if each]
    for each in given:
        if each.passed_over:
            log(f"data: {each.passed_over:,} files passed over, which are not named as pictures are")
    chosen = {split: (source, numbers) for split, numbers in numbers_of_splits(config, source).items()}
    if test:
        chosen["test"] = (test, numbers_of_test(test))
    writers, form = {}, None
    with limited(config.pixel_limit), ThreadPoolExecutor(os.cpu_count()) as pool:
        for split, (of, numbers) in chosen.items():
            writer = writers[split] = make_writer(config, work, split, len(numbers), form, log)
            writer.write(decoded(config, of, numbers, pool))
            form = writer.form
    training = [label for split in ("train", "held_out") for label in writers[split].labels]
    images = Images(form[0], form[2], classes_of(training, source.classes), *writers["train"].statistics())
    splits = {split: writer.finish(images.classes) for split, writer in writers.items()}
    for split, facts in splits.items():
        labelled = f"{len(images.classes)} classes" if facts["labels_digest"] else "no labels"
        log(f"data: {split}, {facts['pictures']:,} pictures of {'x'.join(map(str, form))}, {labelled}")
        log(f"data: {split}, {picture_sizes.told(facts['sizes'])}")
    names = hashlib.sha256("\n".join(source.names).encode("utf-8", "surrogateescape")).hexdigest()
    passed_over = sum(each.passed_over for each in given)
    return (
        writers,
        images,
        {
            "preparing": config.preparing(),
            "images": images.as_json(),
            "source": {"kind": config.source, "names": names, "passed_over": passed_over},
            "splits": splits,
        },
    )


Measured = tuple[np.ndarray, tuple[int, int]]
Decoded = tuple[str, Picture, Measured | BadPictureError]


def decoded(config: PictureConfig, source: ImageSource, numbers: list[int], pool) -> Iterator[Decoded]:
    """(name, picture, its pixels and size as of `measured` or why there are none), in the order of `numbers`."""

    def pixels(picture: Picture) -> Measured | BadPictureError:
        if isinstance(picture.content, BadPictureError):
            return picture.content
        try:
            return measured(picture.content, config.size, config.channels, config.pixel_limit)
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
        yield from ((name, picture, each) for (name, picture), each in zip(chunk, found, strict=True))


class PictureWriter:
    """Appends pictures to the files of one split.

    Attributes:
      form: (S, S, C) of the first picture, of all splits; the others must have it.
      labels: as the source gives them.
    """

    def __init__(self, config: PictureConfig, work: Path, split: str, expected: int, form, log: Callable[[str], None]):
        self.form, self.labels, self._bad = form, [], []
        self._config, self._work, self._split, self._expected, self._log = config, work, split, expected, log
        self._digest, self._first = hashlib.sha256(), ""
        self._sizes = array("q")  # height and width in the source, of one picture after another
        self._histogram: np.ndarray | int = 0

    def write(self, pictures: Iterator[Decoded]) -> None:
        with images_of(self._work, self._split).open("wb") as stream:
            for name, picture, found in pictures:
                if isinstance(found, BadPictureError):
                    self._skip(name, str(found))
                    continue
                pixels, size = found
                self._check(name, pixels.shape)
                self._sizes.extend(size)
                content = np.ascontiguousarray(pixels)
                stream.write(content)
                self._digest.update(content)
                self.labels.append(picture.label)
                self.keep(picture)
                if self._split == "train":
                    values = pixels.reshape(-1, pixels.shape[-1]).T
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

    def keep(self, picture: Picture) -> None:
        """Called with each picture that is written; here there is nothing to keep of it beside pixels and label."""

    def finish(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Writes the labels; what data.json says of the split."""
        sizes = picture_sizes.counted(np.array(self._sizes, np.int64).reshape(-1, 2), self._config.size)
        facts = {"pictures": len(self.labels), "digest": self._digest.hexdigest(), "bad": self._bad, "sizes": sizes}
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
        # Before they are an array, which holds no integer of any size.
        wrong = [label for label, number in zip(self.labels, numbers, strict=True) if not 0 <= number < len(classes)]
        if wrong:
            raise DataError(
                "a label is of no class of the training pictures",
                where=f"the split {self._split}",
                why=f"{wrong[0]!r}; {len(classes)} classes: {', '.join(classes[:20])}",
                do="mend the labels, or the names of the classes",
            )
        labels = np.array(numbers, "<i4")
        content = labels.tobytes()
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
            # A file's name may hold bytes that are no UTF-8, which cannot be printed.
            self._log(f"data: skipped {name.encode('utf-8', 'backslashreplace').decode()}: {why}")
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


def classes_of(labels: list[str | int | None], given: tuple[str, ...]) -> tuple[str, ...]:
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
