"""Rows of data by number: which ones a step reads is a function of (seed, step), and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.records import ImageRows, PairRows, TextRows
from pretrainx.core.vocabulary import Vocabulary

Batch = dict[str, np.ndarray]
TRIES = 10  # for a row of another document (BERT's data script has as many)


class Rows:
    """Random access to `len` rows. Anything that takes `len` and an index takes this, Grain among others.

    Attributes:
      reads: what an objective reads of them: of text, how wide rows are, what neighbours share, and the fields beside "tokens".
    """

    reads: TextRows | ImageRows | PairRows

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} must count its rows")

    def rows(self, numbers: Sequence[int]) -> Batch:
        """{field: [len(numbers), ...]}: "tokens" and the fields that are read, "other" excepted (see `batch_of`).

        Raises IndexError outside 0 .. len - 1 (a wrapped index would repeat data).
        """
        raise TypeError(f"{type(self).__name__} must give its rows")

    def __getitem__(self, row: int) -> Batch:
        """The fields of one row."""
        return {name: values[0] for name, values in self.rows([row]).items()}

    def order(self, seed: int) -> Any:
        """The endless sequence of row numbers, a `grain.MapDataset`: a seeded permutation of all rows in each epoch."""
        return _shuffled(0, len(self), seed)

    def share_a_document(self, row: int, other: int) -> bool:
        """Whether two rows hold parts of one document."""
        return False

    def others(self, numbers: Sequence[int], seed: int) -> np.ndarray:
        """int64[n]: for each row another one, a function of (seed, row), of another document where TRIES draws find one.

        Raises DataError where there is but one row.
        """
        if len(self) < 2:
            raise DataError(
                "there is no other row to draw",
                where="config.data.length",
                why=f"the objective compares rows with others, and there is {len(self)}",
                do="add text (config.data.paths) or lower config.data.length",
            )
        return np.array([self._other(row, seed) for row in np.asarray(numbers, np.int64).tolist()], np.int64)

    def _other(self, row: int, seed: int) -> int:
        for attempt in range(TRIES):
            other = (row + 1 + own_seed(seed, f"other/{row}/{attempt}", 8) % (len(self) - 1)) % len(self)
            if not self.share_a_document(row, other):
                break
        return other

    def too_few(self, batch_size: int) -> DataError:
        """What is said where there are fewer rows than one batch takes."""
        return DataError(
            "the corpus has fewer rows than one batch",
            where="config.train.batch_size",
            why=f"{len(self)} rows of {self.reads.width - self.reads.overlap} tokens, a batch takes {batch_size}",
            do="add text (config.data.paths), or lower config.train.batch_size or config.data.length",
        )

    def _check(self, numbers: Sequence[int]) -> None:
        for row in numbers:
            if not 0 <= row < len(self):
                raise IndexError(f"row {row} of {len(self)}")


class MixedRows(Rows):
    """Rows of several parts behind one another, read in the proportion of weights.

    Every part is shuffled anew each time that it has been read whole, however often the others were.
    """

    def __init__(self, parts: Sequence[tuple[str, Rows]], weights: Sequence[float]):
        """parts: (name, rows), all of one width and with the same fields; weights: their shares, above 0."""
        self._parts, self._weights = tuple(parts), tuple(weights)
        self.reads = self._parts[0][1].reads
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

    def others(self, numbers: Sequence[int], seed: int) -> np.ndarray:
        """Of the same part: texts of another kind would be told apart too easily."""
        numbers = np.asarray(numbers, np.int64)
        parts, found = self.part_of(numbers), np.empty_like(numbers)
        for index in np.unique(parts):
            places, (name, rows) = parts == index, self._parts[index]
            start = self._starts[index]
            found[places] = start + rows.others(numbers[places] - start, own_seed(seed, name))
        return found

    def order(self, seed: int) -> Any:
        import grain

        # Parts repeat before they are mixed: a mixture of finite parts ends with the first that runs out.
        streams = [
            _shuffled(int(start), len(rows), own_seed(seed, name))
            for start, (name, rows) in zip(self._starts[:-1], self._parts, strict=True)
        ]
        return grain.MapDataset.mix(streams, weights=list(self._weights))


class TrainingRows:
    """Full batches by step: the source's order of rows cut into batches, which run across epoch borders."""

    def __init__(self, source: Rows, batch_size: int, seed: int, vocabulary: Vocabulary | None = None):
        """vocabulary: what ids may be, where rows hold tokens.

        Raises DataError when the source has fewer rows than a batch, ConfigError for a seed outside uint32.
        """
        if len(source) < batch_size:
            raise source.too_few(batch_size)
        if not 0 <= seed < 2**32:
            raise ConfigError(
                "the seed does not fit 32 bits", where="config.seed", why=f"got {seed}", do="choose 0 .. 4294967295"
            )
        self.source, self._vocabulary, self._seed = source, vocabulary, seed
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
        """What `source.reads.spec(B)` says; "valid" is True everywhere.

        Raises DataError naming the step when a token id lies outside the vocabulary.
        """
        batch = batch_of(self.source, self.numbers(step).tolist(), own_seed(self._seed, f"step/{step}"))
        for name in {"tokens", "other"} & batch.keys():
            self._vocabulary.check(batch[name], f"the training batch of step {step}")
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


def batch_of(source: Rows, numbers: Sequence[int], seed: int, others: Rows | None = None) -> Batch:
    """All fields of rows, "other" included, which come from the same rows unless `others` are given."""
    batch = source.rows(numbers)
    if "other" in source.reads.fields:
        drawn = source.others(numbers, seed) if others is None else _drawn(numbers, seed, len(others))
        batch["other"] = (source if others is None else others).rows(drawn.tolist())["tokens"]
    return batch


def _shuffled(first: int, count: int, seed: int) -> Any:
    """first .. first + count - 1 for ever, in another order in each epoch."""
    import grain  # a second of start-up that commands without training data should not pay

    return grain.MapDataset.range(first, first + count).seed(seed).shuffle().repeat()


def _drawn(numbers: Sequence[int], seed: int, count: int) -> np.ndarray:
    return np.array([own_seed(seed, f"other/{row}", 8) % count for row in numbers], np.int64)


def own_seed(seed: int, name: str, length: int = 4) -> int:
    """A part's or task's own seed: those of one length would otherwise go through the same permutation side by side.

    Of `length` bytes.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:length], "big")
