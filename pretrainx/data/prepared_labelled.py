"""A directory of prepared labelled text: the examples of each split, the tokenizer, and what data.json says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.core.labelled import Labelled, LabelledRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import stored_tokenizer
from pretrainx.data.directory import read_description
from pretrainx.data.labelled_columns import UNLABELLED, Columns, open_columns, verify_columns
from pretrainx.data.prepared import TOKENIZER
from pretrainx.data.rows import Batch, Rows, TrainingRows
from pretrainx.data.splits import few_of_each
from pretrainx.data.tokenizer import Tokenizer

KIND, FORMAT = "labelled", 1
# Named in the fingerprint: a change of what a row is must not pass for the same data.
TRANSFORMS = ("split-by-group/1", "cut-between-marks/1", "shuffle-by-epoch/1")
CUT = (-1, -1)  # the span of an answer that does not lie in its row


class ExampleRows(Rows):
    """Examples of a split as rows."""

    def __init__(self, columns: Columns, reads: LabelledRows, vocabulary: Vocabulary, numbers: np.ndarray):
        """numbers: int64[n], the examples that there are, by their number in the split.

        Raises ConfigError for marks that the vocabulary does not have, and for rows without room for text.
        """
        vocabulary.require("pad", *reads.begin, *reads.between, *reads.end)
        self._columns, self.reads, self._numbers = columns, reads, numbers
        self._marks = {
            name: np.array([vocabulary.special(each) for each in getattr(reads, name)], np.int32)
            for name in ("begin", "between", "end")
        }
        self._pad, self._eos, self._room = (
            vocabulary.special("pad"),
            vocabulary.special("eos"),
            reads.width - reads.marks,
        )
        if self._room < 1 + reads.pairs:
            raise ConfigError(
                "the rows have no room for text",
                where="config.data.length",
                why=f"{reads.width} tokens, of which {reads.marks} are marks",
                do=f"--config.data.length={reads.marks + 1 + reads.pairs} or more",
            )

    def __len__(self) -> int:
        return len(self._numbers)

    def labels_of(self, count: int) -> np.ndarray:
        """The labels of the first `count` examples: int32[n] classes, int32[any] tags of their tokens, float64[n] numbers."""
        numbers, columns = self._numbers[:count], self._columns
        if self.reads.target != "tags":
            return columns.labels[numbers]
        borders = columns.text.offsets
        return np.concatenate([columns.labels[borders[number] : borders[number + 1]] for number in numbers])

    @property
    def cut(self) -> int:
        """How many examples do not fit into a row."""
        sizes = self._columns.text.sizes() + (self._columns.second.sizes() if self.reads.pairs else 0)
        return int((sizes[self._numbers] > self._room).sum())

    def too_few(self, batch_size: int) -> DataError:
        return DataError(
            "there are fewer examples than one batch takes",
            where="config.train.batch_size",
            why=f"{len(self)} training examples, a batch takes {batch_size}",
            do="lower config.train.batch_size, or raise config.data.labels or add examples",
        )

    def rows(self, numbers: Sequence[int]) -> Batch:
        self._check(numbers)
        batch = self.nothing(len(numbers))
        del batch["valid"]
        for row, number in enumerate(self._numbers[np.asarray(numbers, np.int64)].tolist()):
            self._fill(batch, row, number)
        return batch

    def nothing(self, count: int) -> Batch:
        """A batch of so many empty rows, none of them valid."""
        batch = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in self.reads.spec(count).items()}
        batch["tokens"][:] = self._pad
        for name, empty in (("label", UNLABELLED), ("tags", UNLABELLED), ("span", CUT), ("target", self._pad)):
            if name in batch:
                batch[name][:] = empty
        return batch

    def _fill(self, batch: Batch, row: int, number: int) -> None:
        reads, columns, marks = self.reads, self._columns, self._marks
        text = columns.text[number]
        second = columns.second[number] if reads.pairs else text[:0]
        first, rest = self._kept(len(text), len(second))
        before = np.concatenate([marks["begin"], text[:first], marks["between"] if reads.pairs else text[:0]])
        whole = np.concatenate([before, second[:rest], marks["end"]])
        batch["tokens"][row, : len(whole)] = whole
        if reads.types:
            batch["types"][row, len(before) : len(whole)] = 1
        match reads.target:
            case "class" | "number":
                batch["label"][row] = columns.labels[number]
            case "tags":
                start, begin = len(marks["begin"]), columns.text.offsets[number]
                batch["tags"][row, start : start + first] = columns.labels[begin : begin + first]
            case "span":
                batch["context"][row, len(before) : len(before) + rest] = True
                span = columns.labels[number]
                batch["span"][row] = span + len(before) if span[1] < rest else CUT
            case "text":
                target = columns.target[number][: reads.target_width - 1]
                batch["target"][row, : len(target) + 1] = [*target, self._eos]
                batch["length"][row], batch["target_length"][row] = len(whole), len(target) + 1

    def _kept(self, text: int, second: int) -> tuple[int, int]:
        """How many tokens of each text stay of so many."""
        room = self._room
        if not self.reads.pairs:
            return min(text, room), 0
        if (
            self.reads.target == "span"
        ):  # a question is rarely long; the rest of the row is for what may hold the answer
            text = min(text, max(room // 2, room - second))
        else:
            text = min(text, max(room - second, room - room // 2))
        return text, min(second, room - text)


@dataclass(frozen=True, eq=False)
class HeldOutExamples:
    """What is evaluated on: the first `count` examples of a split, in order."""

    rows: ExampleRows
    count: int
    vocabulary: Vocabulary

    @property
    def labels(self) -> np.ndarray:
        """See `ExampleRows.labels_of`."""
        return self.rows.labels_of(self.count)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """What `rows.reads.spec(batch_size)` says; rows that fill the last batch have `valid` False."""
        for first in range(0, self.count, batch_size):
            numbers = range(first, min(first + batch_size, self.count))
            batch = self.rows.nothing(batch_size)
            for name, values in self.rows.rows(numbers).items():
                batch[name][: len(numbers)] = values
            batch["valid"][: len(numbers)] = True
            self.vocabulary.check(batch["tokens"], f"held-out batch {first // batch_size}")
            yield batch


@dataclass(frozen=True)
class PreparedLabelled:
    """Labelled examples.

    Attributes:
      tokenizer: what the ids mean.
      directory: where the files are.
      meta: the content of data.json: format, kind, preparing (the configuration), splits (each examples, tokens, counts of
        each class, digests of the files), labelled (see `Labelled`), dtype, tokenizer (its digest), vocab_size.
      labels, labels_seed: how many training examples of each class are used, see `LabelledConfig`.
    """

    tokenizer: Tokenizer = field(compare=False)
    directory: Path
    meta: dict[str, Any]
    labels: int = 0
    labels_seed: int = 0

    @property
    def about(self) -> Labelled:
        """What models and objectives are built for."""
        return Labelled.from_json(self.tokenizer.vocabulary, self.meta["labelled"])

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokenizer.vocabulary

    @property
    def splits(self) -> tuple[str, ...]:
        """ "train", "held_out", and "test" where there is one."""
        return tuple(name for name in ("train", "held_out", "test") if name in self.meta["splits"])

    @property
    def bad_records(self) -> dict[str, int]:
        """None is skipped: a bad example ends the preparation."""
        return {}

    def columns(self, split: str) -> Columns:
        """ConfigError for a split that is not there."""
        if split not in self.splits:
            raise ConfigError(
                f"unknown split {split!r}",
                where=str(self.directory),
                why=nearest(split, self.splits),
                do="choose one of " + ", ".join(self.splits),
            )
        facts = self.meta["splits"][split]
        return open_columns(self.directory, split, facts, self.meta["labelled"]["target"], self.meta["dtype"])

    def rows(self, split: str, reads: LabelledRows) -> ExampleRows:
        """The rows of a split that an objective reads; of the training split only those that `labels` leaves.

        Raises ConfigError where the objective reads other labels, or pairs where there are none.
        """
        found = self.meta["labelled"]
        for name, key in (("target", "target"), ("pairs", "second")):
            if getattr(reads, name) != found[name]:
                raise ConfigError(
                    "the objective reads other examples than the data have",
                    where=f"config.data.{key}",
                    why=f"{name}: it reads {getattr(reads, name)!r}, the data have {found[name]!r}",
                    do="choose another objective, or set the key",
                )
        columns = self.columns(split)
        everything = np.arange(len(columns.text))
        numbers = self.chosen(columns) if split == "train" and self.labels else everything
        return ExampleRows(columns, reads, self.vocabulary, numbers)

    def chosen(self, columns: Columns) -> np.ndarray:
        """int64[n]: the training examples that are used, rising: the first `labels` of each class in a seeded order."""
        by_class = self.meta["labelled"]["target"] == "class"
        labels = columns.labels if by_class else np.zeros(len(columns.text), np.int32)
        return few_of_each(labels, self.labels, self.labels_seed)

    def training_rows(self, reads: LabelledRows, batch_size: int, seed: int) -> TrainingRows:
        """The training batches by step."""
        return TrainingRows(self.rows("train", reads), batch_size, seed, self.vocabulary)

    def held_out(self, part: str, reads: LabelledRows, limit: int = 0, split: str = "held_out") -> HeldOutExamples:
        """Held-out examples (or those of another split), the first `limit` of them where that is above 0."""
        rows = self.rows(split, reads)
        return HeldOutExamples(rows, min(limit or len(rows), len(rows)), self.vocabulary)

    def fingerprint(self, seed: int, batch_size: int, reads: LabelledRows) -> dict[str, Any]:
        """What decides which examples a step reads, as plain JSON values; equal on every machine with the same data."""
        digest = lambda split: _digest(self.meta["splits"][split]["digests"])
        form = {name: getattr(reads, name) for name in ("width", "target_width", "types")}
        form |= {name: list(getattr(reads, name)) for name in ("begin", "between", "end")}
        return {
            "sources": [{"digest": digest("train"), "held_out_digest": digest("held_out")}],
            "labelled": self.meta["labelled"],
            "labels": self.labels,
            "labels_seed": self.labels_seed if self.labels else 0,
            "seed": seed,
            "batch_size": batch_size,
            "form": form,
            "transforms": list(TRANSFORMS),
            "tokenizer": self.meta["tokenizer"],
            "vocab_size": self.meta["vocab_size"],
        }


def _digest(digests: dict[str, str]) -> str:
    return hashlib.sha256("".join(digests[name] for name in sorted(digests)).encode()).hexdigest()


def open_labelled(directory: str | Path, labels: int = 0, labels_seed: int = 0) -> PreparedLabelled:
    """Opens a prepared directory; a split's files are compared with their digests when they are read.

    Raises DataError naming the file that is missing, damaged or of another format version.
    """
    directory = Path(directory)
    meta = read_description(directory, KIND, FORMAT)
    tokenizer = stored_tokenizer.opened(directory / TOKENIZER, meta)
    found = PreparedLabelled(tokenizer, directory, meta, labels, labels_seed)
    for split in found.splits:
        found.columns(split)
    return found


def verify_labelled(prepared: PreparedLabelled) -> dict[str, str]:
    """{split: a line on its examples}. Raises DataError naming the first file that is not as it should be."""
    found, target = {}, prepared.meta["labelled"]["target"]
    for split in prepared.splits:
        facts, columns = prepared.meta["splits"][split], prepared.columns(split)
        found[split] = verify_columns(prepared.directory, split, columns, facts, prepared.tokenizer, target)
    return found
