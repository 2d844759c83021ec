"""The examples of a split in files: streams of tokens with the places where each example begins, and labels beside them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.data.directory import check_file, damaged
from pretrainx.data.labelled_sources import Example
from pretrainx.data.tokenizer import Tokenizer

INDEX = np.dtype("<i8")
TEXTS = 4096  # that are tokenised together
# {target: (name, dtype of its column)}; "tags" is as long as the stream of tokens, of a "target" there is a stream.
COLUMNS = {"class": ("label", "<i4"), "number": ("label", "<f8"), "tags": ("tags", "<i4"), "span": ("span", "<i4")}
UNLABELLED = -1  # of tokens that do not begin a word


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sequences of tokens behind one another: those of example i are tokens[offsets[i] : offsets[i + 1]]."""

    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sizes(self) -> np.ndarray:
        """int64[n]"""
        return np.diff(self.offsets)

    def __getitem__(self, number: int) -> np.ndarray:
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]


@dataclass(frozen=True, eq=False)
class Columns:
    """The examples of a split, mapped from disk.

    Attributes:
      text, second, target: their tokens without marks; None of what the examples do not have.
      labels: int32[n] classes, float64[n] numbers, int32[tokens of text] tags or int32[n, 2] spans in the second text; None
        where a target is a text.
    """

    text: Ragged
    second: Ragged | None
    target: Ragged | None
    labels: np.ndarray | None


def path_of(directory: Path, split: str, part: str) -> Path:
    return directory / f"{split}.{part}.bin"


def write_columns(
    work: Path,
    split: str,
    examples: Sequence[Example],
    target: str,
    classes: tuple[str, ...],
    tokenizer: Tokenizer,
    tokenizer_file: Path,
) -> dict[str, Any]:
    """Writes the files of a split; what data.json says of it: examples, tokens, counts of each class, digests of the files."""
    dtype = np.dtype("<u2" if tokenizer.vocabulary.size <= 1 << 16 else "<u4")
    number, parts, counts = {name: index for index, name in enumerate(classes)}, {}, Counter()
    if target == "tags":
        ids, tags = zip(*(_of_words(example, number, tokenizer) for example in examples), strict=True)
        parts["tags"] = np.concatenate(tags).astype(COLUMNS[target][1])
        counts = Counter(parts["tags"][parts["tags"] != UNLABELLED].tolist())
    else:
        ids = _encoded(tokenizer, (example.text for example in examples))
    streams = {"text": ids}
    if examples[0].second:
        streams["second"] = _encoded(tokenizer, (example.second for example in examples))
    match target:
        case "class":
            parts["label"] = np.array([number[example.label] for example in examples], COLUMNS[target][1])
            counts = Counter(parts["label"].tolist())
        case "number":
            parts["label"] = np.array([example.label for example in examples], COLUMNS[target][1])
        case "span":
            parts["span"] = _spans(examples, tokenizer_file).astype(COLUMNS[target][1])
        case "text":
            streams["target"] = _encoded(tokenizer, (example.label for example in examples))
    for name, sequences in streams.items():
        sizes = np.array([len(each) for each in sequences], np.int64)
        parts[name] = np.concatenate([np.zeros(0, np.int32), *sequences]).astype(dtype)
        parts[f"{name}_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype(INDEX)
    return {
        "examples": len(examples),
        "tokens": sum(len(parts[name]) for name in streams),
        "counts": [counts[index] for index in range(len(classes))],
        "digests": {name: _write(path_of(work, split, name), array) for name, array in parts.items()},
    }


def _encoded(tokenizer: Tokenizer, texts: Iterable[str]) -> list[np.ndarray]:
    texts, found = list(texts), []
    for first in range(0, len(texts), TEXTS):
        found += tokenizer.encode_batch(texts[first : first + TEXTS])
    return found


def _of_words(example: Example, number: dict[str, int], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(ids, tags) of an example's words, each tokenised by itself: the first token of a word has its tag."""
    # In a byte-level tokenizer the blank belongs to the word behind it; the others mark words themselves.
    words = [" " * (tokenizer.lossless and index > 0) + word for index, word in enumerate(example.text)]
    ids, tags = tokenizer.encode_batch(words), []
    for pieces, tag in zip(ids, example.label, strict=True):
        each = np.full(len(pieces), UNLABELLED, np.int32)
        each[:1] = number[tag]
        tags.append(each)
    return np.concatenate(ids), np.concatenate(tags)


def _spans(examples: Sequence[Example], tokenizer_file: Path) -> np.ndarray:
    """int[n, 2]: the first and the last token of each answer in the tokens of its second text.

    They are those that a character of the answer belongs to, found by the offsets of the whole text's tokens: tokens of an
    answer by itself would tell where it begins.
    """
    from tokenizers import Tokenizer as Inner

    inner = Inner.from_file(str(tokenizer_file))
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True
    found = np.empty((len(examples), 2), np.int64)
    for first in range(0, len(examples), TEXTS):
        part = examples[first : first + TEXTS]
        encodings = inner.encode_batch([example.second for example in part], add_special_tokens=False)
        for row, (example, encoding) in enumerate(zip(part, encodings, strict=True), start=first):
            begins, ends = np.array(encoding.offsets, np.int64).reshape(-1, 2).T
            start, stop = example.label
            inside = np.flatnonzero((ends > start) & (begins < stop))
            if not len(inside):
                raise DataError(
                    "an answer has no token",
                    where=example.where,
                    why="the tokenizer drops its characters",
                    do="correct the line, or use another tokenizer",
                )
            found[row] = inside[0], inside[-1]
    return found


def _write(path: Path, array: np.ndarray) -> str:
    """Forces the array to the disk; its sha256."""
    content = array.tobytes()
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(content).hexdigest()


def open_columns(directory: Path, split: str, facts: dict[str, Any], target: str, dtype: str) -> Columns:
    """The columns of a split, each file compared with its digest. Raises DataError naming one that is not as it was."""
    for name, digest in facts["digests"].items():
        check_file(path_of(directory, split, name), digest, f"{facts['examples']} examples of the split {split}")

    def mapped(name: str, dtype: str | np.dtype) -> np.ndarray:
        path = path_of(directory, split, name)
        # Nothing can be mapped of an empty file.
        return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.zeros(0, dtype)

    stream = np.dtype(dtype).newbyteorder("<")
    ragged = lambda name: (
        Ragged(mapped(name, stream), mapped(f"{name}_offsets", INDEX)) if name in facts["digests"] else None
    )
    labels = None
    if target in COLUMNS:
        labels = mapped(*COLUMNS[target])
        labels = labels.reshape(-1, 2) if target == "span" else labels
    return Columns(ragged("text"), ragged("second"), ragged("target"), labels)


def verify_columns(
    directory: Path, split: str, columns: Columns, facts: dict[str, Any], tokenizer: Tokenizer, target: str
):
    """A line on a split. Raises DataError naming the first file whose tables, ids or labels are not as they should be."""
    for name in ("text", "second", "target"):
        ragged = getattr(columns, name)
        if ragged is None:
            continue
        borders = ragged.offsets
        rising = len(ragged) == facts["examples"] and borders[0] == 0 and (np.diff(borders) >= 0).all()
        if not rising or borders[-1] != len(ragged.tokens):
            raise damaged(path_of(directory, split, f"{name}_offsets"), "it does not say where each example begins")
        tokenizer.vocabulary.check(ragged.tokens, str(path_of(directory, split, name)))
    labels = columns.labels
    if target in ("class", "tags"):
        real = labels[labels != UNLABELLED] if target == "tags" else labels
        counts = np.bincount(real, minlength=len(facts["counts"])) if len(real) and real.min() >= 0 else np.zeros(0)
        if counts.tolist() != facts["counts"]:
            raise damaged(
                path_of(directory, split, COLUMNS[target][0]), "its classes are not those that data.json counts"
            )
    if target == "span" and ((labels[:, 0] > labels[:, 1]) | (labels[:, 1] >= columns.second.sizes())).any():
        raise damaged(path_of(directory, split, "span"), "an answer lies outside its text")
    return f"{facts['examples']:,} examples, {facts['tokens']:,} tokens" + (
        f", {min(facts['counts']):,} to {max(facts['counts']):,} of each of {len(facts['counts'])} classes"
        if facts["counts"]
        else ""
    )
