"""The held-out split as batches: every target exactly once, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.core.records import rows_of_task
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.rows import Batch, Rows, batch_of
from pretrainx.data.stream import StreamRows, empty

# Of the draw of "other" rows: held-out batches depend on no seed.
SEED = 0


@dataclass(frozen=True, eq=False)
class HeldOutText:
    """What is evaluated on: the rows of one part's held-out split.

    Attributes:
      rows: of which the first `count` are read.
      vocabulary: what ids may be, and the one of padding.
      others: where the field "other" is drawn from; None for `rows` themselves.
    """

    rows: StreamRows
    count: int
    vocabulary: Vocabulary
    others: Rows | None = None

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """What `rows.reads.spec(batch_size)` says; rows that fill the last batch have `valid` False.

        Raises DataError for a split without a target and for an id outside the vocabulary.
        """
        if self.count < 1:
            raise DataError(
                "the held-out text has no token to predict",
                where="config.data.held_out",
                why=f"{len(self.rows.tokens)} tokens",
                do="raise config.data.held_out or add text (config.data.paths)",
            )
        for first in range(0, self.count, batch_size):
            numbers = range(first, min(first + batch_size, self.count))
            found, batch = batch_of(self.rows, numbers, SEED, self.others), self.nothing(batch_size)
            for name, values in found.items():
                batch[name][: len(numbers)] = values
            batch["valid"][: len(numbers)] = True
            for name in {"tokens", "other"} & batch.keys():
                self.vocabulary.check(batch[name], f"held-out batch {first // batch_size}")
            yield batch

    def nothing(self, batch_size: int) -> Batch:
        """A batch without a valid row."""
        batch = empty(self.rows.reads, batch_size, self.vocabulary.special("pad"))
        if "other" in self.rows.reads.fields:
            batch["other"] = batch["tokens"].copy()
        return batch | {"valid": np.zeros(batch_size, bool)}

    def sequences(self) -> Iterator[np.ndarray]:
        """int[n] each: what is read from its own beginning only."""
        return self.rows.sequences(self.count)

    def targets(self) -> Iterator[np.ndarray]:
        """int[n] each: the tokens of `sequences` that are to be recovered, each once.

        All but the first of each where the last token of a row is only a target; else all.
        """
        return (sequence[self.rows.reads.overlap :] for sequence in self.sequences())


@dataclass(frozen=True, eq=False)
class HeldOutTasks:
    """The held-out text as each task of a mixture reads it.

    Attributes:
      tasks: {task: its text}; shares: {task: its share of a batch's rows}.
    """

    tasks: dict[str, HeldOutText]
    shares: dict[str, float]

    def batches(self, batch_size: int) -> Iterator[dict[str, Batch]]:
        """{task: batch}, until the task that takes longest is through; the others' rows are then not valid.

        Raises ConfigError where a share is no whole number of rows.
        """
        rows = {name: rows_of_task(name, share, batch_size) for name, share in self.shares.items()}
        each = [text.batches(rows[name]) for name, text in self.tasks.items()]
        for found in zip_longest(*each):
            yield {
                name: text.nothing(rows[name]) if batch is None else batch
                for (name, text), batch in zip(self.tasks.items(), found, strict=True)
            }

    def sequences(self) -> Iterator[np.ndarray]:
        """Those of each task, one task after the other."""
        return (sequence for text in self.tasks.values() for sequence in text.sequences())

    def targets(self) -> Iterator[np.ndarray]:
        """Those of each task, one task after the other."""
        return (targets for text in self.tasks.values() for targets in text.targets())
