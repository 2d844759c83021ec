"""Rows made of a stream of tokens: cut from it as it comes, packed with whole documents, or one document in each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.core.records import TEXT_FIELDS, TextRows
from pretrainx.data.fields import Marks, begins_word, documents_before, ends_sentence, neighbours
from pretrainx.data.rows import Batch, Rows


class StreamRows(Rows):
    """Rows made of pieces of one stream of tokens, padded at their end."""

    several = False  # whether a piece may hold several documents
    part = 0  # which part of a mixture the rows are from

    def __init__(self, tokens: np.ndarray, reads: TextRows, marks: Marks):
        """tokens: int[n], may be memory-mapped; marks: what the ids mean."""
        # As a plain array: slicing a memmap builds a Python object with attributes each time.
        self.tokens = np.asarray(tokens)
        self.reads, self._marks = reads, marks

    def pieces(self, row: int) -> Sequence[tuple[int, int]]:
        """(start, count) in the stream of what the row holds, in its order."""
        raise TypeError(f"{type(self).__name__} must say what its rows hold")

    def sequences(self, rows: int) -> Iterator[np.ndarray]:
        """int[n] each: what in the first `rows` rows is read from its own beginning; neighbours share `reads.overlap`."""
        for row in range(rows):
            for start, count in self.pieces(row):
                yield self.tokens[start : start + count]

    def until(self, targets: int) -> int:
        """How many of the first rows have about as many targets, rounded up: exactly as many where rows are full."""
        return min(len(self), -(-targets // (self.reads.width - self.reads.overlap)))

    def share_a_document(self, row, other):
        return not self._documents(row).isdisjoint(self._documents(other))

    def _documents(self, row: int) -> set[int]:
        """The numbers of the documents that a row holds parts of."""
        found = set()
        for start, count in self.pieces(row):
            first, last = np.searchsorted(self._ends, (start, start + count - 1))
            found |= set(range(int(first), int(last) + 1))
        return found

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """int64[documents], where in the stream each ends; found by reading all of it, once."""
        return np.flatnonzero(self.tokens == self._marks.end)

    def rows(self, numbers: Sequence[int]) -> Batch:
        self._check(numbers)
        found = empty(self.reads, len(numbers), self._marks.pad)
        for place, row in enumerate(numbers):
            at = 0
            for segment, (start, count) in enumerate(self.pieces(int(row)), start=1):
                self._write({name: values[place] for name, values in found.items()}, at, segment, start, count)
                at += count
            if "length" in found:
                found["length"][place] = at
        if "task" in found:
            found["task"][:] = self.part
        return found

    def _write(self, row: Batch, at: int, segment: int, start: int, count: int) -> None:
        """Puts a piece into a row from place `at` on."""
        ids, here, marks = self.tokens[start : start + count], slice(at, at + count), self._marks
        row["tokens"][here] = ids
        if "segments" in row:
            row["segments"][here] = segment + documents_before(ids, marks.end) if self.several else segment
        if "words" in row or "sentences" in row:
            before, after = neighbours(self.tokens, start, count, marks.end)
            if "words" in row:
                row["words"][here] = begins_word(ids, before, marks)
            if "sentences" in row:
                row["sentences"][here] = ends_sentence(ids, before, after, marks)


class TokenRows(StreamRows):
    """Rows cut from a stream of tokens: row r begins at token r * (width - overlap).

    With an overlap of one, a row holds T inputs and T targets, and the targets of all rows are the stream without its first
    token, each once; without, the tokens of all rows are the stream. What remains after the last full row is not read, or
    padded where `rest` says so.
    """

    several = True

    def __init__(self, tokens: np.ndarray, reads: TextRows, marks: Marks, rest: bool = False):
        """Raises DataError when not one row fits (with `rest` there may be none)."""
        super().__init__(tokens, reads, marks)
        stride = reads.width - reads.overlap
        count = len(tokens) - reads.overlap
        self._count = max(-(-count // stride) if rest else count // stride, 0)
        if self._count < 1 and not rest:
            raise DataError(
                "the corpus is shorter than one row",
                where="config.data.length",
                why=f"{len(tokens)} tokens; a row of length {stride} needs {reads.width}",
                do="add text (config.data.paths) or lower config.data.length",
            )

    def __len__(self) -> int:
        return self._count

    def pieces(self, row):
        start = row * (self.reads.width - self.reads.overlap)
        return ((start, min(self.reads.width, len(self.tokens) - start)),)

    def sequences(self, rows):
        yield self.tokens


class PackedRows(StreamRows):
    """Rows of whole documents (see `packing.pack`), told apart by "segments"; where a row is empty, these are 0."""

    def __init__(self, tokens: np.ndarray, borders: np.ndarray, pieces: np.ndarray, reads: TextRows, marks: Marks):
        """borders: int64[rows + 1] and pieces: int64[m, 2], as from `pack`; all may be mapped."""
        super().__init__(tokens, reads, marks)
        self._borders, self._pieces = np.asarray(borders), np.asarray(pieces)

    def __len__(self) -> int:
        return len(self._borders) - 1

    def pieces(self, row):
        return self._pieces[self._borders[row] : self._borders[row + 1]].tolist()


class DocumentRows(StreamRows):
    """One document per row, or a piece of one that is longer than a row; the pieces of one share `reads.overlap` tokens."""

    def __init__(self, tokens: np.ndarray, borders: np.ndarray, reads: TextRows, marks: Marks):
        """borders: int64[documents + 1], where in the stream each document begins, and its length; may be mapped."""
        super().__init__(tokens, reads, marks)
        self._borders = np.asarray(borders)
        self._stride = reads.width - reads.overlap
        # A document of one token has no target where the first is none.
        counts = -(-(np.diff(self._borders) - reads.overlap) // self._stride)
        self._firsts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def pieces(self, row):
        document = int(np.searchsorted(self._firsts, row, side="right")) - 1
        start = int(self._borders[document]) + (row - int(self._firsts[document])) * self._stride
        return ((start, min(self.reads.width, int(self._borders[document + 1]) - start)),)

    def until(self, targets):
        found = 0
        for row in range(len(self)):
            found += self.pieces(row)[0][1] - self.reads.overlap
            if found >= targets:
                return row + 1
        return len(self)


def empty(reads: TextRows, count: int, pad: int) -> Batch:
    """Rows without text: all fields but "other", padding everywhere."""
    batch = {"tokens": np.full((count, reads.width), pad, np.int32)}
    for name in reads.fields:
        if name != "other":
            per_token, dtype = TEXT_FIELDS[name]
            batch[name] = np.zeros((count, reads.width) if per_token else count, dtype)
    return batch
