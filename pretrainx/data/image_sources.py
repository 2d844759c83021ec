"""Labelled pictures, always in the same order: files in folders, IDX and npz arrays, ArrayRecords, generated shapes, digits."""

from __future__ import annotations

import functools
import gzip
import math
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.data import array_records, shapes, tf_examples
from pretrainx.data.decoding import BadPictureError
from pretrainx.data.sources import files

MADE_HERE = ("shapes", "digits")
KINDS = (*MADE_HERE, "folder", "idx", "npz", "array_record")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# By which encoded pictures are known where a record may also be something else: PNG, JPEG, GIF, BMP, WebP, TIFF.
MAGIC = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|BM|RIFF....WEBP|II\*\x00|MM\x00\*", re.DOTALL)
# Keys of an Example that hold the encoded picture and its label, the first that is there.
IMAGE_KEYS, LABEL_KEYS = ("image", "image/encoded"), ("label", "image/class/label")


class Picture(NamedTuple):
    """One picture as its source has it.

    Attributes:
      label: the name of its class, or a number, or None.
      content: encoded bytes, uint8[H, W] or [H, W, C], or why there is none.
    """

    label: str | int | None
    content: bytes | np.ndarray | BadPictureError


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Pictures by number.

    Attributes:
      names: of each; they contain no machine's directories, and decide the split.
      read: gives those of rising numbers, in their order.
      classes: names of the labels 0, 1, ..., where the source tells them.
      passed_over: how many files beside them are no pictures by their names.
      groups: of each, what decides the split in place of its name, so that what belongs together stays together; empty where
        no picture has a group.
      files: the paths of pictures that what was given only names; empty where it holds its pictures itself.
    """

    names: Sequence[str]
    read: Callable[[Sequence[int]], Iterator[Picture]]
    classes: tuple[str, ...] = ()
    passed_over: int = 0
    groups: Sequence[str] = ()
    files: Collection[str] = ()


def folder(paths: tuple[str, ...]) -> ImageSource:
    """Files of SUFFIXES (any case): in each directory sorted by name, labelled by the directory in it that holds them.

    A file that lies in a given directory itself, or is given itself, has no label.
    """
    found = list(files(paths, SUFFIXES))

    def read(numbers):
        for number in numbers:
            name, path = found[number]
            try:
                content = path.read_bytes()
            except OSError as error:  # not the picture is bad but the disk, or somebody is moving files
                raise DataError("a picture cannot be read", where=str(path), why=str(error), do="mend it") from error
            yield Picture(name.partition("/")[0] if "/" in name else None, content)

    return ImageSource([name for name, _ in found], read, passed_over=sum(1 for _ in files(paths, ("",))) - len(found))


def idx(paths: tuple[str, ...]) -> ImageSource:
    """Files *-images-idx3-ubyte or .gz (idx4 with channels last), labels from *-labels-idx1-ubyte beside them if there.

    A text file `classes.txt` beside them names the labels, one a line. Directories are refused: they tend to hold the test
    set too.
    """
    names, arrays, classes = [], [], ()
    for name, path in _named_files(paths, "-images", "*-images-idx3-ubyte*"):
        images = _read_idx(path, (3, 4))
        beside = path.with_name(re.sub(r"-images([-.])idx\d", r"-labels\1idx1", path.name))
        labels = _read_idx(beside, (1,)) if beside != path and beside.is_file() else None
        arrays.append((path, images, labels))
        names += [f"{name}:{number}" for number in range(len(images))]
        if (path.parent / "classes.txt").is_file():
            classes = tuple((path.parent / "classes.txt").read_text("utf-8").splitlines())
    return ImageSource(names, _of_arrays(arrays), classes)


def npz(paths: tuple[str, ...]) -> ImageSource:
    """Files of `images` uint8[N, H, W] or [N, H, W, C], and `labels` int[N] or text[N] if there; nothing is unpickled."""
    names, arrays = [], []
    for name, path in files(paths, (".npz",)):
        try:
            with np.load(path, allow_pickle=False) as opened:
                held = {key: opened[key] for key in ("images", "labels") if key in opened}
                known = list(opened)
        except Exception as error:  # zip, zlib, header: each raises its own
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        if "images" not in held:
            raise _damaged(path, f"it has no array 'images'; {nearest('images', known)}")
        images = held["images"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,), (4,)):
            raise _damaged(
                path, f"images are {images.dtype}{list(images.shape)}, not uint8[N, H, W] or [N, H, W, 1, 3 or 4]"
            )
        if "labels" in held and held["labels"].dtype.kind not in "iuU":
            raise _damaged(path, f"labels are {held['labels'].dtype}, not integers or text")
        arrays.append((path, images, held.get("labels")))
        names += [f"{name}:{number}" for number in range(len(images))]
    return ImageSource(names, _of_arrays(arrays))


def array_record(paths: tuple[str, ...]) -> ImageSource:
    """A record is the bytes of one encoded picture (no label), or a `tf.train.Example` with it and its label.

    The first record of a file says which. An Example has the picture under IMAGE_KEYS and the label, an integer or text, if
    any, under LABEL_KEYS: so tensorflow-datasets writes them.
    """
    names, owners, plain = [], [], functools.cache(_holds_pictures)
    for name, path in files(paths, array_records.SUFFIXES):
        count = array_records.count(path)
        names += [f"{name}:{number}" for number in range(count)]
        owners += [(path, number) for number in range(count)]

    def read(numbers):
        for path, wanted in groupby((owners[number] for number in numbers), key=lambda owner: owner[0]):
            for record in array_records.records(path, [number for _, number in wanted]):
                yield Picture(None, record) if plain(path) else of_example(record)

    return ImageSource(names, read)


def generated(seed: int, count: int, size: int) -> ImageSource:
    """The first `count` pictures of `shapes` of a seed."""
    names = [name_of_shape(seed, number) for number in range(count)]

    def read(numbers):
        for number in numbers:
            content, label = shapes.picture(seed, number, size)
            yield Picture(label, content)

    return ImageSource(names, read, shapes.CLASSES)


def name_of_shape(seed: int, number: int) -> str:
    return f"shapes/{seed}:{number}"


def digits() -> ImageSource:
    """1,797 handwritten digits of 8 x 8 pixels that come installed with scikit-learn; their 17 greys become 0 to 255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed",
            where="config.data.source",
            why=str(error),
            do="pip install 'pretrainx[test]', or set config.data.source to 'shapes'",
        ) from error
    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    names = [f"digits:{number}" for number in range(len(images))]
    return ImageSource(names, _of_arrays([(Path("digits"), images, found.target)]))


def _of_arrays(
    arrays: list[tuple[Path, np.ndarray, np.ndarray | None]],
) -> Callable[[Sequence[int]], Iterator[Picture]]:
    for path, images, labels in arrays:
        if labels is not None and labels.shape != (len(images),):
            raise _damaged(path, f"{len(images)} pictures, and labels of shape {list(labels.shape)}")
    starts = np.cumsum([0, *(len(images) for _, images, _ in arrays)])

    def read(numbers):
        for number in numbers:
            which = int(np.searchsorted(starts, number, side="right")) - 1
            _, images, labels = arrays[which]
            at = int(number - starts[which])
            image = images[at]
            yield Picture(None if labels is None else labels[at].item(), image if image.ndim == 3 else image[..., None])

    return read


def _named_files(paths: tuple[str, ...], part: str, pattern: str) -> Iterator[tuple[str, Path]]:
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            there = ", ".join(sorted(found.name for found in path.glob(pattern))) or f"no {pattern}"
            raise DataError(
                "a directory is given where files must be named",
                where=f"config.data.paths: {given}",
                why=f"it holds {there}; a set to test on must not be trained on",
                do="name the files of pictures in config.data.paths, and those to test on in config.data.test_paths",
            )
    for name, path in files(paths, ("",)):
        if part not in name:
            raise DataError(
                "a file is not named as IDX pictures are",
                where=f"config.data.paths: {path}",
                why=f"its name has no {part!r}, by which the labels beside it are found",
                do=f"name files such as {pattern}",
            )
        yield name, path


def _read_idx(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    """uint8 of the sizes in the header: two zeros, 8 for bytes, how many dimensions, then each as four bytes, big end first."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, count = struct.unpack_from(">HBB", content)
        if (zeros, kind) != (0, 8) or count not in dimensions:
            expected = " or ".join(f"0000080{count}" for count in dimensions)
            raise _damaged(path, f"it begins with {content[:4].hex()}, not {expected}")
        shape = struct.unpack_from(f">{count}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if len(content) != 4 + 4 * count + math.prod(shape):
        raise _damaged(path, f"{len(content)} bytes, but its header says {list(shape)}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * count).reshape(shape)


def _holds_pictures(path: Path) -> bool:
    """Whether the records of a file are encoded pictures, and not Examples with one. DataError where they are neither."""
    first = next(array_records.records(path, [0]))
    if MAGIC.match(first):
        return True
    try:
        tf_examples.features(first)
    except ValueError as error:
        raise _damaged(path, f"record 0 is neither an encoded picture nor a tf.train.Example ({error})") from error
    return False


def of_example(record: bytes) -> Picture:
    try:
        found = tf_examples.features(record)
    except ValueError as error:
        return Picture(None, BadPictureError(f"the record is no tf.train.Example: {error}"))
    one = lambda keys: next((found[key][0] for key in keys if found.get(key)), None)
    content, label = one(IMAGE_KEYS), one(LABEL_KEYS)
    if not isinstance(content, bytes):
        content = BadPictureError(
            f"the record has no bytes under {' or '.join(IMAGE_KEYS)}: {', '.join(sorted(found))}"
        )
    return Picture(label.decode("utf-8", "replace") if isinstance(label, bytes) else label, content)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        "a file of pictures is damaged or of another form",
        where=str(path),
        why=why[:300],
        do="copy it anew, or leave it out of config.data.paths",
    )


READERS: dict[str, Callable[[tuple[str, ...]], ImageSource]] = {
    "folder": folder,
    "idx": idx,
    "npz": npz,
    "array_record": array_record,
}


def check_paths(kind: str, paths: tuple[str, ...], test_paths: tuple[str, ...]) -> None:
    """ConfigError where paths do not fit the kind of source."""
    if kind in MADE_HERE and (paths or test_paths):
        raise ConfigError(
            f"the source {kind!r} takes no paths",
            where="config.data.paths" if paths else "config.data.test_paths",
            why=f"got {', '.join(paths or test_paths)}",
            do="set config.data.source to another kind, or leave the paths out",
        )
    if kind not in MADE_HERE and not paths:
        raise ConfigError(
            f"the source {kind!r} needs paths",
            where="config.data.paths",
            why="no paths are given",
            do="name what it reads, such as ('pictures',)",
        )
