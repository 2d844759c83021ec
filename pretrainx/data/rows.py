"""Rows of tokens by number: which tokens a step reads is a function of (seed, step), and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.vocabulary import Vocabulary

Batch = dict[str, np.ndarray]


class Rows:
    """Random access to `len` rows of T + 1 tokens. Anything that takes `len` and an index takes this, Grain among others.

    Attributes:
      length: T, the targets of a full row.
    """

    length: int

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must count its rows")

    def rows(self, numbers: Sequence[int]) -> Batch:
        """{field: [len(numbers), T + 1]}. Raises IndexError outside 0 .. len - 1 (a wrapped index would repeat data)."""
        raise TypeError(f"{type(self).__name__} must give its rows")

    def __getitem__(self, row: int) -> Batch:
        """The fields of one row."""
        return {name: values[0] for name, values in self.rows([row]).items()}

    def order(self, seed: int) -> Any:
        """The endless sequence of row numbers, a `grain.MapDataset`: a seeded permutation of all rows in each epoch."""
        return _shuffled(0, len(self), seed)

    def _check(self, numbers: Sequence[int]) -> None:
        for row in numbers:
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")


class TokenRows(Rows):
    """Rows of a token stream that overlap by one: row r is tokens[r * T : r * T + T + 1].

    A row holds T inputs and T targets, so the targets of all rows are the stream without its first token, each once.
    What remains after the last full row (fewer than T targets) is not read. The only field is `tokens`: int32.
    """

    def __init__(self, tokens: np.ndarray, length: int):
        """tokens: int[n], may be memory-mapped; length: T. Raises DataError when not one row fits."""
        # As a plain array: slicing a memmap builds a Python object with attributes each time.
        self._tokens = np.asarray(tokens)
        self.length = length
        self._count = (len(tokens) - 1) // length
        if self._count < 1:
            raise DataError(
                "the corpus is shorter than one row",
                where="config.data.length",
                why=f"{len(tokens)} tokens; a row of length {length} needs {length + 1}",
                do="add text (config.data.paths) or lower config.data.length",
            )

    def __len__(self) -> int:
        return self._count

    def rows(self, numbers: Sequence[int]) -> Batch:
        self._check(numbers)
        batch = np.empty((len(numbers), self.length + 1), np.int32)
        for place, row in enumerate(numbers):
            start = int(row) * self.length
            batch[place] = self._tokens[start : start + self.length + 1]
        return {"tokens": batch}


class PackedRows(Rows):
    """Rows of whole documents (see `packing.pack`): `tokens` int32, and `segments` int32 that tell them apart.

    Segments are 1, 2, ... in each row and 0 where a row is empty; there `tokens` holds `pad`.
    """

    def __init__(self, tokens: np.ndarray, borders: np.ndarray, pieces: np.ndarray, length: int, pad: int):
        """tokens: int[n], the stream; borders: int64[rows + 1] and pieces: int64[m, 2], as from `pack`; all may be mapped."""
        self._tokens, self._borders, self._pieces = np.asarray(tokens), np.asarray(borders), np.asarray(pieces)
        self.length, self._pad = length, pad

    def __len__(self) -> int:
        return len(self._borders) - 1

    def rows(self, numbers: Sequence[int]) -> Batch:
        self._check(numbers)
        tokens = np.full((len(numbers), self.length + 1), self._pad, np.int32)
        segments = np.zeros_like(tokens)
        for place, row in enumerate(numbers):
            at = 0
            pieces = self._pieces[self._borders[row] : self._borders[row + 1]].tolist()
            for segment, (start, count) in enumerate(pieces, start=1):
                tokens[place, at : at + count] = self._tokens[start : start + count]
                segments[place, at : at + count] = segment
                at += count
        return {"tokens": tokens, "segments": segments}


class MixedRows(Rows):
    """Rows of several parts behind one another, read in the proportion of weights.

    Every part is shuffled anew each time that it has been read whole, however often the others were.
    """

    def __init__(self, parts: Sequence[tuple[str, Rows]], weights: Sequence[float]):
        """parts: (name, rows), all of one length and with the same fields; weights: their shares, above 0."""
        self._parts, self._weights = tuple(parts), tuple(weights)
        self.length = self._parts[0][1].length
        self._starts = np.cumsum([0, *(len(rows) for _, rows in self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def part_of(self, numbers: np.ndarray) -> np.ndarray:
        """int64[n]: the index of the part that each row number belongs to."""
        return np.searchsorted(self._starts, numbers, side="right") - 1

    def rows(self, numbers: Sequence[int]) -> Batch:
        self._check(numbers)
        numbers = np.asarray(numbers, np.int64)
        parts, batch = self.part_of(numbers), {}
        for index in np.unique(parts):
            places = np.flatnonzero(parts == index)
            found = self._parts[index][1].rows((numbers[places] - self._starts[index]).tolist())
            for name, values in found.items():
                batch.setdefault(name, np.empty((len(numbers), *values.shape[1:]), values.dtype))[places] = values
        return batch

    def order(self, seed: int) -> Any:
        import grain

        # Parts repeat before they are mixed: a mixture of finite parts ends with the first that runs out.
        streams = [
            _shuffled(int(start), len(rows), _own(seed, name))
            for start, (name, rows) in zip(self._starts[:-1], self._parts, strict=True)
        ]
        return grain.MapDataset.mix(streams, weights=list(self._weights))


class TrainingRows:
    """Full batches by step: the source's order of rows cut into batches, which run across epoch borders."""

    def __init__(self, source: Rows, batch_size: int, seed: int, vocabulary: Vocabulary):
        """Raises DataError when the source has fewer rows than a batch, ConfigError for a seed outside uint32."""
        if len(source) < batch_size:
            raise DataError(
                "the corpus has fewer rows than one batch",
                where="config.train.batch_size",
                why=f"{len(source)} rows of {source.length} tokens, a batch takes {batch_size}",
                do="add text (config.data.paths), or lower config.train.batch_size or config.data.length",
            )
        if not 0 <= seed < 2**32:
            raise ConfigError(
                "the seed does not fit 32 bits", where="config.seed", why=f"got {seed}", do="choose 0 .. 4294967295"
            )
        self.source, self._vocabulary = source, vocabulary
        self.batch_size = batch_size
        # Only row numbers go through Grain; the rows of a batch are then read together. `repeat` before `batch`:
        # the other order ends each epoch with a short batch.
        self._order = source.order(seed).batch(batch_size)
        # A step's numbers are asked for twice: by the batch, made ahead in a thread, and by its hash in the log.
        self._numbers = lru_cache(maxsize=64)(self._read_numbers)

    def first_row(self, step: int) -> int:
        """Position of the step's first row in the endless sequence of rows."""
        return step * self.batch_size

    def epoch(self, step: int) -> int:
        """How many times as many rows as there are had been read when the step began."""
        return self.first_row(step) // len(self.source)

    def numbers(self, step: int) -> np.ndarray:
        """int64[B], the rows of the corpus that the step's batch is made of."""
        return self._numbers(step)

    def batch(self, step: int) -> Batch:
        """The fields of the source's rows, int32[B, T + 1] each, and "valid": bool[B], all True.

        Raises DataError naming the step when a token id lies outside the vocabulary.
        """
        batch = self.source.rows(self.numbers(step).tolist())
        self._vocabulary.check(batch["tokens"], f"the training batch of step {step}")
        return {**batch, "valid": np.ones(self.batch_size, bool)}

    def record_hash(self, step: int) -> str:
        """Twelve hex digits that name the rows of a step's batch and their order."""
        return hashlib.sha256(self.numbers(step).astype("<i8").tobytes()).hexdigest()[:12]

    def _read_numbers(self, step: int) -> np.ndarray:
        if step < 0:
            raise IndexError(f"step {step}: steps start at 0")  # Grain would count back from the end of time
        numbers = np.asarray(self._order[step], np.int64)
        numbers.flags.writeable = False
        return numbers


def _shuffled(first: int, count: int, seed: int) -> Any:
    """first .. first + count - 1 for ever, in another order in each epoch."""
    import grain  # a second of start-up that commands without training data should not pay

    return grain.MapDataset.range(first, first + count).seed(seed).shuffle().repeat()


def _own(seed: int, name: str) -> int:
    """A part's own seed: parts of one length would otherwise go through the same permutation side by side."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")
