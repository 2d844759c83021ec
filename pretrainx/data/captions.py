"""Captions of a split in files: one stream of tokens, where each caption begins in it, and which captions a picture has."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.corpus import BATCH_CHARACTERS
from pretrainx.data.directory import check_file, damaged
from pretrainx.data.tokenizer import Tokenizer

# The last two hold UTF-8 text, and are there only where the tokenizer is not lossless.
PARTS = ("tokens", "offsets", "pictures", "text", "text_offsets")
INDEX = np.dtype("<i8")


def path_of(directory: Path, split: str, part: str) -> Path:
    return directory / f"{split}.captions.{part}.bin"


class CaptionWriter:
    """Takes the captions of a split picture by picture; they become tokens once there is a tokenizer.

    Until then their text is in a file: a tokenizer is trained on it, and a split need not fit into memory.
    """

    def __init__(self, directory: Path, split: str):
        self._directory, self._split = directory, split
        self._text = path_of(directory, split, "text").open("wb")
        self._sizes, self._counts, self._hashes = array("q"), array("q"), array("Q")

    def add(self, captions: tuple[str, ...]) -> None:
        """The captions of the next picture, no two equal."""
        for caption in captions:
            content = caption.encode()
            self._text.write(content)
            self._sizes.append(len(content))
            self._hashes.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()))
        self._counts.append(len(captions))

    def texts(self) -> Iterator[str]:
        """All captions, in order."""
        self._text.flush()
        with path_of(self._directory, self._split, "text").open("rb") as stream:
            for size in self._sizes:
                yield stream.read(size).decode()

    def finish(self, tokenizer: Tokenizer, dtype: np.dtype, length: int) -> dict[str, Any]:
        """Writes the files; what data.json says of the captions.

        length: tokens of a row. Captions that do not fit between its "bos" and "eos" are counted as cut; rows without "bos",
          which some objectives read, have room for one token more, so that of them fewer may be cut.
        """
        lengths, digests = array("q"), {}
        tokens = _File(path_of(self._directory, self._split, "tokens"))
        for batch in _batches(self.texts()):
            for ids in tokenizer.encode_batch(batch):
                tokens.write(ids.astype(dtype).tobytes())
                lengths.append(len(ids))
        digests["tokens"] = tokens.close()
        digests["offsets"], offsets = self._table("offsets", lengths)
        digests["pictures"], _ = self._table("pictures", self._counts)
        os.fsync(self._text.fileno())
        self._text.close()
        text = path_of(self._directory, self._split, "text")
        if tokenizer.lossless:
            text.unlink()
        else:
            with text.open("rb") as stream:
                digests["text"] = hashlib.file_digest(stream, "sha256").hexdigest()
            digests["text_offsets"], _ = self._table("text_offsets", self._sizes)
        _, which, often = np.unique(np.array(self._hashes, np.uint64), return_inverse=True, return_counts=True)
        return {
            "captions": len(self._sizes),
            "tokens": int(offsets[-1]),
            "duplicates": int((often[which] > 1).sum()),
            "cut": int((np.diff(offsets) > length - 2).sum()),
            "cut_at": length,
            "digests": digests,
        }

    def _table(self, part: str, counts: array) -> tuple[str, np.ndarray]:
        """(digest, int64[n + 1]) of the file of where each of n things begins and the last one ends."""
        borders = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(INDEX)
        file = _File(path_of(self._directory, self._split, part))
        file.write(borders.tobytes())
        return file.close(), borders


class _File:
    """A file that is forced to the disk when it is closed, and its sha256."""

    def __init__(self, path: Path):
        self._stream, self._digest = path.open("wb"), hashlib.sha256()

    def write(self, content: bytes) -> None:
        self._stream.write(content)
        self._digest.update(content)

    def close(self) -> str:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return self._digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Captions(Sequence[tuple[str, ...]]):
    """The captions of a split by the number of their picture: a tuple of texts, the full one first.

    Attributes:
      tokens: uint16[n] or uint32[n] of all captions behind one another, without special tokens.
      offsets: int64[captions + 1], where each caption begins among the tokens.
      pictures: int64[pictures + 1], which caption is the first one of each picture.
      text: the same as UTF-8 and where each begins in it, of a tokenizer that is not lossless.
    """

    tokenizer: Tokenizer
    tokens: np.ndarray
    offsets: np.ndarray
    pictures: np.ndarray
    text: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.pictures) - 1

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]  # from the end, or IndexError
        return tuple(self._caption(each) for each in range(self.pictures[number], self.pictures[number + 1]))

    def _caption(self, number: int) -> str:
        if self.text is not None:
            content, borders = self.text
            return content[borders[number] : borders[number + 1]].tobytes().decode()
        return self.tokenizer.decode(self.tokens[self.offsets[number] : self.offsets[number + 1]])

    def ids(self, pictures: np.ndarray, count: int, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ids of the first `count` captions of pictures int64[n], each cut to `room` tokens.

        (int32[sum of sizes] of all behind one another, sizes int64[n, count], how many captions are real: int32[n]).
        """
        first = self.pictures[pictures]
        real = np.minimum(self.pictures[pictures + 1] - first, count)
        caption = first[:, None] + np.minimum(np.arange(count), real[:, None] - 1)
        begin = self.offsets[caption]
        sizes = np.where(np.arange(count) < real[:, None], self.offsets[caption + 1] - begin, 0)
        sizes = np.minimum(sizes, room)
        there = np.arange(room) < sizes[..., None]
        found = self.tokens[(begin[..., None] + np.arange(room))[there]]
        return found.astype(np.int32), sizes, real.astype(np.int32)


def room(width: int, begin: bool) -> int:
    """How many tokens of a caption fit into a row of `width` between its ends."""
    return width - begin - 1


def framed(ids: np.ndarray, sizes: np.ndarray, width: int, vocabulary: Vocabulary, begin: bool) -> np.ndarray:
    """int32[..., W]: captions as rows [bos] ids [eos] pad ..., without "bos" unless `begin`.

    Args:
      ids: int[sum of sizes], of all captions behind one another.
      sizes: int[...], how many are of each, at most `room(width, begin)`.
      width: W.

    Raises ConfigError for a special token that the vocabulary does not have.
    """
    tokens = np.full((*sizes.shape, width), vocabulary.special("pad"), np.int32)
    if begin:
        tokens[..., 0] = vocabulary.special("bos")
    tokens[..., int(begin) : -1][np.arange(room(width, begin)) < sizes[..., None]] = ids
    np.put_along_axis(tokens, (begin + sizes)[..., None], vocabulary.special("eos"), -1)
    return tokens


def framed_each(ids: Sequence[np.ndarray], width: int, vocabulary: Vocabulary, begin: bool) -> np.ndarray:
    """int32[n, W]: `framed` of the ids int[any] of each of n captions, each cut so that both ends stay."""
    cut = [each[: room(width, begin)] for each in ids]
    sizes = np.array([len(each) for each in cut], np.int64)
    return framed(np.concatenate([np.zeros(0, np.int32), *cut]), sizes, width, vocabulary, begin)


def opened(directory: Path, split: str, dtype: str, tokenizer: Tokenizer) -> Captions:
    """The captions of a split, mapped from disk."""
    mapped = lambda part, dtype: _mapped(path_of(directory, split, part), np.dtype(dtype))
    text = None if tokenizer.lossless else (mapped("text", np.uint8), mapped("text_offsets", INDEX))
    return Captions(tokenizer, mapped("tokens", dtype), mapped("offsets", INDEX), mapped("pictures", INDEX), text)


def check_files(directory: Path, split: str, facts: dict[str, Any]) -> None:
    """DataError where the digest of a file is not what data.json says of a split's captions."""
    for part, digest in facts["digests"].items():
        check_file(path_of(directory, split, part), digest, f"{facts['captions']} captions of the split {split}")


def verify(directory: Path, split: str, captions: Captions, facts: dict[str, Any], pictures: int) -> str:
    """A line on the captions of a split. DataError naming the file whose tables, ids or counts are not as they should be."""
    tables = [("offsets", captions.offsets, facts["captions"], facts["tokens"], 0, captions.tokens)]
    tables.append(("pictures", captions.pictures, pictures, facts["captions"], 1, None))
    if captions.text is not None:
        content, borders = captions.text
        tables.append(("text_offsets", borders, facts["captions"], len(content), 1, content))
    for part, borders, count, last, least, holds in tables:
        fits = (
            len(borders) == count + 1 and borders[0] == 0 and borders[-1] == last and (np.diff(borders) >= least).all()
        )
        if not fits or (holds is not None and len(holds) != last):
            raise damaged(path_of(directory, split, part), f"it does not say where each of {count} begins")
    captions.tokenizer.vocabulary.check(captions.tokens, str(path_of(directory, split, "tokens")))
    line = f"{facts['captions']:,} captions of {facts['tokens']:,} tokens, {facts['empty']:,} empty ones dropped"
    return f"{line}, {facts['duplicates']:,} of several pictures"


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    # As a plain array: indexing a memmap builds a Python object with attributes each time. Nothing can be mapped of an
    # empty file.
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.zeros(0, dtype)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """So many together as keep the tokenizer's threads busy."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
