"""The held-out split as batches: every target exactly once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.rows import Batch, PackedRows


@dataclass(frozen=True, eq=False)
class HeldOutText:
    """What is evaluated on: a token stream in rows that overlap by one, or rows of whole documents.

    Attributes:
      tokens: int[n], the stream; the packed rows' fields come from `packed`, where that is given.
      length: T; vocabulary: what ids may be, and the one of padding.
      packed: the rows of whole documents.
      limit: how many of the packed rows are read.
    """

    tokens: np.ndarray
    length: int
    vocabulary: Vocabulary
    packed: PackedRows | None = None
    limit: int = 0

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """{"tokens": int32[B, T + 1], "valid": bool[B]}, and "segments" for rows of documents.

        Raises DataError for a split without a target and for an id outside the vocabulary.
        """
        found = self._packed_batches(batch_size) if self.packed else self._stream_batches(batch_size)
        for number, batch in enumerate(found):
            self.vocabulary.check(batch["tokens"], f"held-out batch {number}")
            yield batch

    def sequences(self) -> Iterator[np.ndarray]:
        """int[n] each: what is predicted from its own beginning only. All tokens but the first of each are targets."""
        if self.packed is None:
            yield self.tokens
            return
        for number in range(self.limit):
            row = self.packed[number]
            for segment in range(1, int(row["segments"].max()) + 1):
                yield row["tokens"][row["segments"] == segment]

    def _stream_batches(self, batch_size: int) -> Iterator[Batch]:
        return held_out_batches(self.tokens, self.length, batch_size, self.vocabulary.special("pad"))

    def _packed_batches(self, batch_size: int) -> Iterator[Batch]:
        if self.limit < 1:
            raise _no_target(len(self.tokens))
        for first in range(0, self.limit, batch_size):
            count = min(batch_size, self.limit - first)
            batch = self.packed.rows(range(first, first + count))
            pad = self.vocabulary.special("pad")
            fill = lambda values, empty: np.pad(values, ((0, batch_size - len(values)), (0, 0)), constant_values=empty)
            yield {
                "tokens": fill(batch["tokens"], pad),
                "segments": fill(batch["segments"], 0),
                "valid": np.arange(batch_size) < count,
            }


def held_out_batches(tokens: np.ndarray, length: int, batch_size: int, pad: int) -> Iterator[Batch]:
    """Every target of a held-out stream exactly once, in order.

    Yields {"tokens": int32[B, T + 1], "valid": bool[B]}: rows overlap by one; the last row is filled with `pad`,
    the last batch with rows of `pad` whose `valid` is False. Raises DataError for a stream without a target.
    """
    tokens = np.asarray(tokens)
    targets = len(tokens) - 1
    if targets < 1:
        raise _no_target(len(tokens))
    rows = -(-targets // length)
    for first in range(0, rows, batch_size):
        batch = np.full((batch_size, length + 1), pad, np.int32)
        count = min(batch_size, rows - first)
        for place in range(count):
            row = tokens[(first + place) * length :][: length + 1]
            batch[place, : len(row)] = row
        yield {"tokens": batch, "valid": np.arange(batch_size) < count}


def _no_target(tokens: int) -> DataError:
    return DataError(
        "the held-out text has no token to predict",
        where="config.data.held_out",
        why=f"{tokens} tokens",
        do="raise config.data.held_out or add text (config.data.paths)",
    )
