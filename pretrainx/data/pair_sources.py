"""Pictures with captions, always in the same order: JSON lines beside files, tar shards, ArrayRecords, generated shapes."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pretrainx.core.errors import DataError, nearest
from pretrainx.data import array_records, image_sources, shapes, tf_examples
from pretrainx.data.archives import climbs
from pretrainx.data.decoding import BadPictureError
from pretrainx.data.image_sources import ImageSource
from pretrainx.data.sources import files
from pretrainx.data.tar_shards import Shards

KINDS = ("shapes", "jsonl", "tar", "array_record")
CAPTION_KEYS = ("caption", "captions", "text")  # of an Example
# What the system says of a path that cannot be that of a picture, whatever the state of the disk.
NO_PICTURE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL})


class Pair(NamedTuple):
    """One picture with captions as its source has it; of an `ImageSource`, in place of a Picture.

    Attributes:
      label: the name of its class, or a number, or None.
      content: encoded bytes, uint8[H, W, C], or why there is none, or why the captions cannot be used.
      captions: without blanks around them, none empty, none twice; the full one first.
      empty: how many more were empty.
    """

    label: str | int | None
    content: bytes | np.ndarray | BadPictureError
    captions: tuple[str, ...] = ()
    empty: int = 0


def cleaned(
    label: Any, content: bytes | np.ndarray | BadPictureError, captions: Sequence[Any], group: Any = None
) -> Pair:
    """A pair of what a record holds; where that is no label, no text, or no caption but empty ones, `content` says so."""
    if bad := halved("its group", group) or halved("its label", label):
        return Pair(None, bad)
    if label is not None and (isinstance(label, bool) or not isinstance(label, (str, int))):
        return Pair(None, BadPictureError(f"its label is a {type(label).__name__}, not a text or an integer"))
    kept: dict[str, None] = {}
    empty = 0
    for caption in captions:
        if not isinstance(caption, str):
            return Pair(label, BadPictureError(f"a caption is a {type(caption).__name__}, not a text"))
        if bad := halved("a caption", caption):
            return Pair(label, bad)
        if text := caption.strip():
            kept[text] = None
        else:
            empty += 1
    if not kept and not isinstance(content, BadPictureError):
        content = BadPictureError("it has no caption" + (f" but {empty} empty ones" if empty else ""))
    return Pair(label, content, tuple(kept), empty)


def halved(what: str, text: Any) -> BadPictureError | None:
    """Why a text cannot be used: JSON can write half of a surrogate pair, which no UTF-8 holds. None for any other value."""
    try:
        if isinstance(text, str):
            text.encode()
    except UnicodeEncodeError:
        return BadPictureError(f"{what} is not valid Unicode: {text!r}"[:200])
    return None


def jsonl(paths: tuple[str, ...]) -> ImageSource:
    """Lines {"image": path beside the file, "caption": text or "captions": [text, ...], "label", "group"}, the last two if any.

    A picture is named by its path, and is in one line; what has no path that can be written is named by its line. Raises
    DataError for a line that is no such object, and for a path that leaves the directory of its file.
    """
    names, groups, places, pictures = [], [], [], set()
    for listed, path in files(paths, (".jsonl",)):
        folder, offset = path.resolve().parent, 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                start, offset, where = offset, offset + len(line), f"{path}:{number}"
                if not line.strip():
                    continue
                record = _object(line, where)
                image = _image_of(record, where)
                if halved("its path", image):  # the split is made by names, before any picture is refused
                    names.append(f"{listed}:{number}")
                else:
                    if (whole := f"{folder}/{image}") in pictures:
                        raise _unusable("a picture is in two lines", where, image, "give all its captions in one line")
                    pictures.add(whole)
                    names.append((PurePosixPath(listed).parent / image).as_posix())
                groups.append(_group(record, names[-1]))
                places.append((path, start))

    def read(numbers):
        for path, wanted in groupby((places[number] for number in numbers), key=lambda place: place[0]):
            with path.open("rb") as stream:
                for _, start in wanted:
                    stream.seek(start)
                    record = _object(stream.readline(), str(path))
                    content = halved("its path", record["image"]) or _file(path.parent / record["image"])
                    yield cleaned(record.get("label"), content, captions_of(record), _grouped_by(record))

    return ImageSource(names, read, groups=groups, files=pictures)


def tar(paths: tuple[str, ...]) -> ImageSource:
    """Shards *.tar in which members of one key are one pair (see `Shards`), read where they lie.

    A picture of `image_sources.SUFFIXES`, captions from .txt, one a line, and from .json, which has the fields of a line of
    `jsonl` but "image"; .cls holds an integer, the label, and goes before the one of the .json.
    """
    shards = Shards(files(paths, (".tar",)), image_sources.SUFFIXES, (".txt", ".json", ".cls"))
    groups = [_group(_loose(shards.read(number, ".json")), shards.names[number]) for number in range(len(shards.names))]

    def pair(number: int) -> Pair:
        record = _loose(shards.read(number, ".json"))
        if isinstance(record, BadPictureError):
            return Pair(None, record)
        try:
            lines = (shards.read(number, ".txt") or b"").decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            return Pair(None, BadPictureError(f"its .txt is not valid UTF-8: {error.reason}"))
        label, numbered = record.get("label"), shards.read(number, ".cls")
        if numbered is not None:
            try:
                label = int(numbered)
            except ValueError:
                return Pair(None, BadPictureError(f"its .cls holds {numbered[:20]!r}, no integer"))
        captions = [*(lines[:-1] if not lines[-1] else lines), *captions_of(record)]  # none follows the last line end
        return cleaned(label, shards.picture(number), captions, _grouped_by(record))

    return ImageSource(
        shards.names,
        lambda numbers: (pair(number) for number in numbers),
        passed_over=shards.passed_over,
        groups=groups,
    )


def array_record(paths: tuple[str, ...]) -> ImageSource:
    """A record is a `tf.train.Example` with a picture and a label as of `image_sources.array_record`, its captions under
    CAPTION_KEYS, several values being several captions, and its group, if any, under "group".

    The first record of a file says whether its records have groups: only then are all read to form the splits.
    """
    names, groups, owners = [], [], []
    for listed, path in files(paths, array_records.SUFFIXES):
        count = array_records.count(path)
        called = [f"{listed}:{number}" for number in range(count)]
        owners += [(path, number) for number in range(count)]
        names += called
        first = next(array_records.records(path, [0]), b"") if count else b""
        grouped = "group" in _features(first, f"{path}: record 0")
        records = array_records.records(path) if grouped else [b""] * count
        groups += [_group(_texts(record), name) for record, name in zip(records, called, strict=True)]

    def read(numbers):
        for path, wanted in groupby((owners[number] for number in numbers), key=lambda owner: owner[0]):
            for record in array_records.records(path, [number for _, number in wanted]):
                picture, found = image_sources.of_example(record), _texts(record)
                captions = [caption for key in CAPTION_KEYS for caption in found.get(key, ())]
                yield cleaned(picture.label, picture.content, captions)

    return ImageSource(names, read, groups=groups)


def generated(seed: int, count: int, size: int) -> ImageSource:
    """The first `count` pictures of `shapes` of a seed, and what can be said of them."""
    names = [image_sources.name_of_shape(seed, number) for number in range(count)]

    def read(numbers):
        for number in numbers:
            content, facts = shapes.told(seed, number, size)
            yield Pair(shapes.CLASSES.index(facts.shape), content, facts.captions())

    return ImageSource(names, read, shapes.CLASSES)


READERS: dict[str, Callable[[tuple[str, ...]], ImageSource]] = {
    "jsonl": jsonl,
    "tar": tar,
    "array_record": array_record,
}


def captions_of(record: dict[str, Any]) -> list[Any]:
    """What is under "caption" and "captions"; null is nothing."""
    one, several = record.get("caption"), record.get("captions")
    several = several if isinstance(several, list) else [] if several is None else [several]
    return [caption for caption in (one, *several) if caption is not None]


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _unusable(
            "a line is not JSON", where, str(error), "write one JSON object a line, or remove it"
        ) from error
    if not isinstance(record, dict):
        why = f"it holds a {type(record).__name__}"
        raise _unusable("a line holds no JSON object", where, why, "write one JSON object a line, or remove it")
    return record


def _image_of(record: dict[str, Any], where: str) -> str:
    image = record.get("image")
    if not isinstance(image, str) or not image:
        why = nearest("image", record) if "image" not in record else f"its value is {image!r}"
        raise _unusable(
            "a line names no picture under 'image'", where, why, "give its path, from the file's directory on"
        )
    if climbs(image) or "\0" in image:
        why = f"{image!r} leaves the directory of its file"
        raise _unusable("a picture lies outside the data", where, why, "keep pictures beside or below the file")
    return PurePosixPath(image).as_posix()


def _file(path: Path) -> bytes | BadPictureError:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno in NO_PICTURE:
            return BadPictureError(f"there is no file {path.name[:100]}: {error.strerror}")
        # Not the picture is bad but the disk.
        raise _unusable("a picture cannot be read", str(path), str(error), "mend it") from error


def _group(record: dict[str, Any] | BadPictureError, name: str) -> str:
    """What decides the split: the group that a record names, else its name."""
    group = None if isinstance(record, BadPictureError) else _grouped_by(record)
    usable = isinstance(group, (str, int)) and group != "" and not halved("its group", group)
    return str(group) if usable else name


def _grouped_by(record: dict[str, Any]) -> Any:
    """What a record holds as its group, the first of several."""
    group = record.get("group")
    return group[0] if isinstance(group, list) and group else group


def _loose(content: bytes | None) -> dict[str, Any] | BadPictureError:
    """The object of a .json; {} where there is none."""
    try:
        record = json.loads(content) if content is not None else {}
    except (ValueError, RecursionError) as error:
        return BadPictureError(f"its .json is not JSON: {error}"[:200])
    return record if isinstance(record, dict) else BadPictureError("its .json holds no object")


def _features(record: bytes, where: str) -> dict[str, list[bytes] | list[int]]:
    try:
        return tf_examples.features(record)
    except ValueError as error:
        raise _unusable("a record is no tf.train.Example", where, str(error), "leave the file out") from error


def _texts(record: bytes) -> dict[str, list[Any]]:
    """The values of an Example's captions and group, bytes as text where they are; {} for what is no Example."""
    try:
        found = tf_examples.features(record)
        return {key: [_text(value) for value in found[key]] for key in (*CAPTION_KEYS, "group") if key in found}
    except ValueError:
        return {}


def _text(value: bytes | int) -> Any:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value  # refused as no text


def _unusable(what: str, where: str, why: str, do: str) -> DataError:
    return DataError(what, where=where, why=why, do=do)
