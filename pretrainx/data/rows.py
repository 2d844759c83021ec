"""Rows of a token stream by number: which tokens a step reads is a function of (seed, step), and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.vocabulary import Vocabulary


class TokenRows:
    """Random access to rows of T + 1 tokens that overlap by one: row r is tokens[r * T : r * T + T + 1].

    A row holds T inputs and T targets, so the targets of all rows are the stream without its first token, each once.
    What remains after the last full row (fewer than T targets) is not read. Anything that takes `len` and an index
    takes this, `grain.MapDataset.source` among others.
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

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        """{"tokens": int32[T + 1]}. Raises IndexError outside 0 .. len - 1 (a wrapped index would repeat data)."""
        return {"tokens": self.rows([row])["tokens"][0]}

    def rows(self, numbers) -> dict[str, np.ndarray]:
        """{"tokens": int32[len(numbers), T + 1]}, one copy for each row."""
        batch = np.empty((len(numbers), self.length + 1), np.int32)
        for place, row in enumerate(numbers):
            if not 0 <= row < self._count:
                raise IndexError(f"row {row} of {self._count}")
            start = int(row) * self.length
            batch[place] = self._tokens[start : start + self.length + 1]
        return {"tokens": batch}


class TrainingRows:
    """Full batches by step: a seeded permutation of all rows in each epoch, batches running across epoch borders."""

    def __init__(self, source: TokenRows, batch_size: int, seed: int, vocabulary: Vocabulary):
        """Raises DataError when the source has fewer rows than a batch, ConfigError for a seed outside uint32."""
        import grain  # a second of start-up that commands without training data should not pay

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
        self._source, self._vocabulary = source, vocabulary
        self.batch_size = batch_size
        # Only row numbers go through Grain; the rows of a batch are then read together. `repeat` before `batch`:
        # the other order ends each epoch with a short batch.
        self._order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().batch(batch_size)
        # A step's numbers are asked for twice: by the batch, made ahead in a thread, and by its hash in the log.
        self._numbers = lru_cache(maxsize=64)(self._read_numbers)

    def first_row(self, step: int) -> int:
        """Position of the step's first row in the endless sequence of rows."""
        return step * self.batch_size

    def epoch(self, step: int) -> int:
        """How many times the corpus had been read whole when the step began."""
        return self.first_row(step) // len(self._source)

    def numbers(self, step: int) -> np.ndarray:
        """int64[B], the rows of the corpus that the step's batch is made of."""
        return self._numbers(step)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """{"tokens": int32[B, T + 1], "valid": bool[B], all True}; the cost is the same at any step.

        Raises DataError naming the step when a token id lies outside the vocabulary.
        """
        batch = self._source.rows(self.numbers(step).tolist())
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


def held_out_batches(tokens: np.ndarray, length: int, batch_size: int, pad: int) -> Iterator[dict[str, np.ndarray]]:
    """Every target of a held-out stream exactly once, in order.

    Yields {"tokens": int32[B, T + 1], "valid": bool[B]}: rows overlap by one; the last row is filled with `pad`,
    the last batch with rows of `pad` whose `valid` is False. Raises DataError for a stream without a target.
    """
    tokens = np.asarray(tokens)
    targets = len(tokens) - 1
    if targets < 1:
        raise DataError(
            "the held-out text has no token to predict",
            where="config.data.held_out",
            why=f"{len(tokens)} tokens",
            do="raise config.data.held_out or add text (config.data.paths)",
        )
    rows = -(-targets // length)
    for first in range(0, rows, batch_size):
        batch = np.full((batch_size, length + 1), pad, np.int32)
        count = min(batch_size, rows - first)
        for place in range(count):
            row = tokens[(first + place) * length :][: length + 1]
            batch[place, : len(row)] = row
        yield {"tokens": batch, "valid": np.arange(batch_size) < count}
