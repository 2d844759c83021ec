"""A directory of prepared pictures: arrays of each split, and what data.json says of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, PairRows
from pretrainx.data.directory import check_file, damaged, read_description
from pretrainx.data.rows import Batch, Rows, TrainingRows
from pretrainx.data.splits import few_of_each

KIND, FORMAT = "pictures", 2
SPLITS = ("train", "held_out", "test")
# Named in the fingerprint: a change of what a row is must not pass for the same data.
TRANSFORMS = ("split-by-name/2", "centre-square-bicubic/1", "shuffle-by-epoch/1")


class PictureRows(Rows):
    """Pictures of a split as rows."""

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, reads: ImageRows):
        """images: uint8[N, S, S, C] and labels: int32[N], both may be mapped."""
        # As a plain array: indexing a memmap builds a Python object with attributes each time.
        self._images, self._labels, self.reads = np.asarray(images), labels, reads

    def __len__(self) -> int:
        return len(self._images)

    def rows(self, numbers: Sequence[int]) -> Batch:
        self._check(numbers)
        numbers = np.asarray(numbers, np.int64)
        found = {"image": self._images[numbers]}
        return found | {name: np.asarray(self._labels[numbers], np.int32) for name in self.reads.fields}

    def nothing(self, count: int) -> Batch:
        """A batch of so many black pictures, none of them valid."""
        return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in self.reads.spec(count).items()}

    def too_few(self, batch_size):
        return DataError(
            "there are fewer training pictures than one batch takes",
            where="config.train.batch_size",
            why=f"{len(self)} pictures, a batch takes {batch_size}",
            do="add pictures (config.data.paths, config.data.limit), or lower config.train.batch_size",
        )


@dataclass(frozen=True, eq=False)
class HeldOutPictures:
    """What is evaluated on: the first `count` pictures of a split, each exactly once, in order."""

    rows: PictureRows
    count: int

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """What `rows.reads.spec(batch_size)` says; rows that fill the last batch are `rows.nothing`, with `valid` False.

        Raises DataError for a split without pictures.
        """
        if self.count < 1:
            raise DataError(
                "no picture is held out",
                where="config.data.held_out",
                why="the split is empty",
                do="raise config.data.held_out, or add pictures (config.data.paths)",
            )
        for first in range(0, self.count, batch_size):
            numbers = range(first, min(first + batch_size, self.count))
            batch = self.rows.nothing(batch_size)
            for name, values in self.rows.rows(numbers).items():
                batch[name][: len(numbers)] = values
            batch["valid"][: len(numbers)] = True
            yield batch


@dataclass(frozen=True)
class PreparedPictures:
    """Pictures of a training and a held-out split, and of a test split where the source has one.

    The last two are in the order of the hashes of their names, so that the first so many are of all classes.

    Attributes:
      images: their form, the names of classes, and the statistics of the training pixels.
      directory: where the files are.
      meta: the content of data.json: format, kind, preparing (the configuration), images, source (kind, sha256 of all names),
        splits {split: pictures, digest of images, labels_digest (None without labels), counts (per class), bad (names
        of those that were skipped, and why), sizes in the source (see `picture_sizes`; older directories have none)}.
    """

    images: Images
    directory: Path
    meta: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names: pictures are no mixture."""
        return ("",)

    @property
    def bad_records(self) -> dict[str, int]:
        """{split: how many of its pictures were skipped}, of splits where some were."""
        return {split: len(bad) for split in self.splits if (bad := self.meta["splits"][split]["bad"])}

    @property
    def passed_over(self) -> int:
        """How many files among them are not named as pictures are, and were not read."""
        return self.meta["source"]["passed_over"]

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that there are, of "train", "held_out" and "test"."""
        return tuple(split for split in SPLITS if split in self.meta["splits"])

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(uint8[N, S, S, C] mapped from disk, int32[N] or None) of a split; ConfigError for one that is not there."""
        if split not in self.splits:
            raise ConfigError(
                f"there is no split {split!r}",
                where=str(self.directory),
                why=nearest(split, self.splits),
                do="a test split needs config.data.test_paths",
            )
        facts, side = self.meta["splits"][split], self.images.size
        shape = (facts["pictures"], side, side, self.images.channels)
        if not facts["pictures"]:  # nothing can be mapped of an empty file
            return np.zeros(shape, np.uint8), None if facts["labels_digest"] is None else np.zeros(0, np.int32)
        images = np.memmap(images_of(self.directory, split), np.uint8, "r", shape=shape)
        labels = None if facts["labels_digest"] is None else np.memmap(labels_of(self.directory, split), "<i4", "r")
        return images, labels

    def checked(self, split: str, reads: ImageRows | PairRows) -> tuple[np.ndarray, np.ndarray | None]:
        """The arrays of a split, for an objective that reads these rows.

        Raises ConfigError for a form or a label that pictures do not have.
        """
        asked = (reads.size, reads.size, reads.channels)
        images, labels = self.arrays(split)
        if images.shape[1:] != asked:
            raise ConfigError(
                "the objective reads pictures of another form",
                where="config.data.size",
                why=f"prepared {images.shape[1:]}, read {asked}",
                do="build it for these data, or prepare them for it",
            )
        if reads.fields and labels is None:
            raise ConfigError(
                "the objective reads labels, and the pictures have none",
                where="config.data.source",
                why=f"no picture of the split {split!r} has a label",
                do="use a source with labels (such as one directory for each class), or an objective without",
            )
        return images, labels

    def rows(self, split: str, reads: Any) -> PictureRows:
        """The rows of a split that an objective reads. Raises ConfigError for what the pictures do not have."""
        raise TypeError(f"{type(self).__name__} must give its rows")

    def epochs(self, rows: int, reads: Any) -> dict[str, float]:
        """{"": how often all pictures are read by the first `rows` training rows}."""
        return {"": rows / self.meta["splits"]["train"]["pictures"]}

    def held_out(self, part: str, reads: Any, limit: int = 0, split: str = "held_out") -> HeldOutPictures:
        """Held-out pictures (or those of another split), the first `limit` of them where that is above 0."""
        if part not in self.names:
            raise ConfigError(
                f"unknown part {part!r}", where="config.data", why="pictures have none", do="leave it out"
            )
        rows = self.rows(split, reads)
        return HeldOutPictures(rows, min(limit, len(rows)) if limit else len(rows))

    def _fingerprint(self, seed: int, batch_size: int, reads: ImageRows | PairRows) -> dict[str, Any]:
        """What of a fingerprint is of the pictures."""
        train, held_out = (self.meta["splits"][split] for split in ("train", "held_out"))
        source = {
            **self.meta["source"],
            "records": train["pictures"],
            "rows": train["pictures"],
            "digest": train["digest"],
            "held_out_digest": held_out["digest"],
        }
        if reads.fields:
            source["labels_digest"] = train["labels_digest"]
        return {
            "sources": [source],
            "weights": [1.0],
            "seed": seed,
            "batch_size": batch_size,
            "size": reads.size,
            "channels": reads.channels,
            "fields": list(reads.fields),
            "images": self.images.as_json(),
        }


@dataclass(frozen=True)
class PreparedImages(PreparedPictures):
    """Pictures without captions.

    Attributes:
      labels, labels_seed: how many training pictures of each class are read, see `ImageConfig`; 0 is all.
    """

    labels: int = 0
    labels_seed: int = 0

    @property
    def about(self) -> Images:
        """What models and objectives are built for."""
        return self.images

    @property
    def tokenizer(self) -> None:
        """Pictures have none."""
        return None

    def rows(self, split: str, reads: ImageRows) -> PictureRows:
        """The rows of a split that an objective reads. Raises ConfigError for a form or a label that pictures do not have."""
        images, labels = self.checked(split, reads)
        if split == "train" and self.labels:
            _, known = self.arrays(split)
            if known is None:
                raise ConfigError(
                    "some pictures of each class are asked for, and the pictures have no labels",
                    where="config.data.labels",
                    why=f"{self.labels} of each class",
                    do="--config.data.labels=0 for all pictures, or config.data.limit",
                )
            chosen = few_of_each(known, self.labels, self.labels_seed)
            images, labels = images[chosen], None if labels is None else labels[chosen]
        return PictureRows(images, labels, reads)

    def epochs(self, rows: int, reads: ImageRows) -> dict[str, float]:
        return {"": rows / len(self.rows("train", reads))}

    def training_rows(self, reads: ImageRows, batch_size: int, seed: int) -> TrainingRows:
        """The training batches by step."""
        return TrainingRows(self.rows("train", reads), batch_size, seed)

    def fingerprint(self, seed: int, batch_size: int, reads: ImageRows) -> dict[str, Any]:
        """What decides which pictures a step reads, as plain JSON values; equal on every machine that has the same data."""
        few = {"labels": self.labels, "labels_seed": self.labels_seed} if self.labels else {}
        return self._fingerprint(seed, batch_size, reads) | {"transforms": list(TRANSFORMS)} | few


def images_of(directory: Path, split: str) -> Path:
    return directory / f"{split}.images.bin"


def labels_of(directory: Path, split: str) -> Path:
    return directory / f"{split}.labels.bin"


def open_images(directory: str | Path) -> PreparedImages:
    """Opens a prepared directory, reading every file once to compare its sha256 with data.json.

    Raises DataError naming the file that is missing, damaged or of another format version.
    """
    directory = Path(directory)
    meta = read_description(directory, KIND, FORMAT)
    return PreparedImages(checked_images(directory, meta), directory, meta)


def checked_images(directory: Path, meta: dict[str, Any]) -> Images:
    """What data.json says of pictures, after the digests of their files were compared with it; else DataError."""
    for split, facts in meta["splits"].items():
        holds = f"{facts['pictures']} pictures of the split {split}"
        check_file(images_of(directory, split), facts["digest"], holds)
        if facts["labels_digest"] is not None:
            check_file(labels_of(directory, split), facts["labels_digest"], f"the labels of {holds}")
    return Images.from_json(meta["images"])


def verify_pictures(pictures: PreparedPictures) -> dict[str, str]:
    """{split: a line on its pictures}. Raises DataError naming the first file that is not as it should be.

    Every file is read: its size, the range of labels and how many there are of each class (digests were compared when it
    was opened).
    """
    lines = {}
    side, channels = pictures.images.size, pictures.images.channels
    for split in pictures.splits:
        facts, path = pictures.meta["splits"][split], images_of(pictures.directory, split)
        if path.stat().st_size != facts["pictures"] * side * side * channels:
            raise damaged(path, f"{path.stat().st_size} bytes are not {facts['pictures']} pictures")
        line = f"{facts['pictures']:,} pictures of {side} x {side} x {channels}, {len(facts['bad'])} skipped"
        if facts["labels_digest"] is not None:
            path, classes = labels_of(pictures.directory, split), len(pictures.images.classes)
            labels = np.fromfile(path, "<i4")
            if len(labels) != facts["pictures"] or ((labels < 0) | (labels >= classes)).any():
                raise damaged(path, f"it does not hold {facts['pictures']} labels below {classes}")
            if np.bincount(labels, minlength=classes).tolist() != facts["counts"]:
                raise damaged(path, "the classes are not as often as data.json says")
            line += f", {classes} classes of {min(facts['counts']):,} to {max(facts['counts']):,}"
        lines[split] = line
    return lines
