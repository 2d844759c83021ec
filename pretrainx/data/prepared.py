"""A directory of prepared text: token files of each part, the tokenizer, and what data.json says of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.core.records import TextRows, rows_of_task
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import stored_tokenizer
from pretrainx.data.directory import check_file, read_description
from pretrainx.data.fields import Marks
from pretrainx.data.held_out import HeldOutTasks, HeldOutText
from pretrainx.data.rows import MixedRows, Rows, TrainingRows, own_seed
from pretrainx.data.stream import DocumentRows, PackedRows, StreamRows, TokenRows
from pretrainx.data.tasks import TaskRows
from pretrainx.data.tokenizer import Tokenizer

FORMAT = 2
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "held_out")
# Named in the fingerprint: a change of what a row is must not pass for the same data.
PACKINGS = {
    "stream": "rows-overlap-by-one/1",
    "documents": "whole-documents-best-fit/1",
    "single": "one-document-a-row/1",
}
END_TO_END = "rows-end-to-end/1"  # a stream whose rows share nothing
VERSIONS = {"other": 2}  # of how fields are made
TRANSFORMS = ("split-by-name/1", "end-of-document/1", "shuffle-by-epoch/1")
MIXING = "mix-by-weight/1"
# What an objective reads: rows of one kind, or of each task of a mixture (name, share of the batch, rows).
Reads = TextRows | tuple[tuple[str, float, TextRows], ...]


@dataclass(frozen=True)
class PreparedText:
    """Tokens of a training and a held-out split of each part, an end-of-document id after each document.

    Attributes:
      tokenizer, vocabulary: what the ids mean.
      directory: where the files are.
      meta: the content of data.json: format, preparing (the configuration), packing, length (T of packed rows, else 0),
        width (of packed rows, where these are not T + 1), parts (each name, source, splits), splits (documents, bytes of
        text, tokens, digest, of all parts together), dtype, tokenizer (its digest), vocab_size. The splits of a part have
        the sha256 of their token file, and, packed, rows, pieces, fill and the sha256 of the tables of both; with one
        document in each row, that of the table of documents.
      weights: the shares of the parts as the configuration gives them; () where it was opened without one.
    """

    tokenizer: Tokenizer = field(compare=False)
    vocabulary: Vocabulary
    directory: Path
    meta: dict[str, Any]
    weights: tuple[float, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names; one "" where the text is no mixture."""
        return tuple(part["name"] for part in self.meta["parts"])

    @property
    def bad_records(self) -> dict[str, int]:
        """None is skipped: a bad document ends the preparation."""
        return {}

    @property
    def about(self) -> Vocabulary:
        """What models and objectives are built for."""
        return self.vocabulary

    @property
    def segmented(self) -> bool:
        """Whether rows hold whole documents, told apart by the field `segments`."""
        return self.meta["packing"] == "documents"

    def tokens(self, split: str, part: str | None = None) -> np.ndarray:
        """uint16[n] or uint32[n] of a part, mapped from disk; of all parts behind one another where none is named.

        Raises ConfigError for an unknown split or part.
        """
        if split not in SPLITS:
            raise ConfigError(
                f"unknown split {split!r}",
                where=str(self.directory),
                why=nearest(split, SPLITS),
                do="choose 'train' or 'held_out'",
            )
        if part is None:
            streams = [self.tokens(split, name) for name in self.names]
            return streams[0] if len(streams) == 1 else np.concatenate(streams)
        self.split(split, part)
        return np.memmap(stem_of(self.directory, part, split) + ".bin", dtype=self.meta["dtype"], mode="r")

    def split(self, split: str, part: str) -> dict[str, Any]:
        """What data.json says of a part's split."""
        for found in self.meta["parts"]:
            if found["name"] == part:
                return found["splits"][split]
        raise ConfigError(
            f"unknown part {part!r}", where="config.data.parts", why=nearest(part, self.names), do="name a part of it"
        )

    @cached_property
    def marks(self) -> Marks:
        """What the ids say of the text around them."""
        return Marks(
            self.vocabulary.special("pad"), self.tokenizer.end, self.tokenizer.word_starts, self.tokenizer.sentence_ends
        )

    def rows(self, split: str, part: str, reads: TextRows, limit: int = 0, rest: bool = False) -> StreamRows:
        """The rows of one part's split that an objective reads.

        Args:
          limit: how many targets a stream is cut to, where that is above 0; rest: whether its last row may be padded.

        Raises ConfigError for fields that rows of this packing do not have, DataError where documents were packed into
        other rows.
        """
        tokens, stem = self.tokens(split, part), stem_of(self.directory, part, split)
        table = lambda name: np.memmap(f"{stem}.{name}.bin", dtype="<i8", mode="r")
        if self.segmented:
            self._check_packed(reads)
            found = PackedRows(tokens, table("rows"), table("pieces").reshape(-1, 2), reads, self.marks)
        elif self.meta["packing"] == "single":
            found = DocumentRows(tokens, table("documents"), reads, self.marks)
        else:
            found = TokenRows(tokens[: limit + reads.overlap] if limit else tokens, reads, self.marks, rest)
        found.part = self.names.index(part)
        return found

    def training_rows(self, reads: Reads, batch_size: int, seed: int) -> TrainingRows | TaskRows:
        """The training batches by step, of all parts in the proportion of their weights.

        Of several tasks, {task: batch}: each has its share of the rows (ConfigError where that is no whole number), in an
        order of its own.
        """
        if not isinstance(reads, TextRows):
            return TaskRows(
                {
                    name: self.training_rows(each, rows_of_task(name, share, batch_size), _of_task(seed, name))
                    for name, share, each in reads
                }
            )
        parts = [(name, self.rows("train", name, reads)) for name in self.names]
        if "other" in reads.fields:
            for _, rows in parts:
                rows.others([0], seed)  # refuses a part of one row before anything is compiled
        source: Rows = parts[0][1] if self.names == ("",) else MixedRows(parts, self._shares())
        return TrainingRows(source, batch_size, seed, self.vocabulary)

    def epochs(self, rows: int, reads: Reads) -> dict[str, float]:
        """{part: how often it is read whole by the first `rows` training rows}, by all tasks together."""
        tasks = (("", 1.0, reads),) if isinstance(reads, TextRows) else reads
        passes = lambda name, share: sum(
            of_task * share * rows / len(self.rows("train", name, each)) for _, of_task, each in tasks
        )
        return {name: passes(name, share) for name, share in zip(self.names, self._shares(), strict=True)}

    def held_out(self, part: str, reads: Reads, limit: int = 0) -> HeldOutText | HeldOutTasks:
        """A part's held-out text, its first `limit` targets (rounded up to rows of documents) where that is above 0."""
        if not isinstance(reads, TextRows):
            tasks = {name: self.held_out(part, each, limit) for name, _, each in reads}
            return HeldOutTasks(tasks, {name: share for name, share, _ in reads})
        rows = self.rows("held_out", part, reads, limit, rest=True)
        others = None
        if "other" in reads.fields and len(rows) < 2:
            others = self.rows("train", part, reads)
        return HeldOutText(rows, rows.until(limit) if limit else len(rows), self.vocabulary, others)

    def fingerprint(self, seed: int, batch_size: int, reads: Reads) -> dict[str, Any]:
        """What decides which tokens a step reads, as plain JSON values; equal on every machine that has the same data.

        The number of processes, devices and prefetched batches is not in it, and neither is a directory's name.
        """
        if not isinstance(reads, TextRows):
            tasks = {
                name: self.fingerprint(_of_task(seed, name), rows_of_task(name, share, batch_size), each)
                for name, share, each in reads
            }
            return {"tasks": tasks, "tokenizer": self.meta["tokenizer"]}
        packing, mixed = self.meta["packing"], self.names != ("",)
        fields = [name for name in reads.fields if name != "segments" or not self.segmented]
        return {
            "sources": [self._source(part, reads) for part in self.meta["parts"]],
            "weights": list(self._shares()),
            "seed": seed,
            "batch_size": batch_size,
            "length": reads.width - reads.overlap,
            "packing": END_TO_END if packing == "stream" and not reads.overlap else PACKINGS[packing],
            **({} if reads.overlap == 1 else {"overlap": reads.overlap}),
            "transforms": [
                *TRANSFORMS,
                *([MIXING] if mixed else []),
                *(f"{name}/{VERSIONS.get(name, 1)}" for name in fields),
            ],
            "tokenizer": self.meta["tokenizer"],
            "vocab_size": self.meta["vocab_size"],
        }

    def _source(self, part: dict[str, Any], reads: TextRows) -> dict[str, Any]:
        train, held_out = (part["splits"][split] for split in SPLITS)
        return {
            **({"name": part["name"]} if part["name"] else {}),
            **part["source"],
            "records": train["documents"],
            "tokens": train["tokens"],
            "rows": len(self.rows("train", part["name"], reads)),
            "digest": train["digest"],
            "held_out_digest": held_out["digest"],
        }

    def _shares(self) -> tuple[float, ...]:
        """Of each part, its share of the rows; the sum is 1."""
        if len(self.names) > 1 and len(self.weights) != len(self.names):
            raise ValueError(f"{len(self.names)} parts need as many weights, not {len(self.weights)}")
        weights = self.weights if len(self.names) > 1 else (1.0,)
        return tuple(weight / sum(weights) for weight in weights)

    def _check_packed(self, reads: TextRows) -> None:
        if "length" in reads.fields:
            raise ConfigError(
                "the objective reads rows of one text each, and rows of documents hold several",
                where="config.data.packing",
                why="what it hides would cross documents",
                do="set it to 'stream', or to 'single' for one document in each row",
            )
        width, overlap = packed_width(self.meta)
        if (reads.width, reads.overlap) == (width, overlap):
            return
        what, where = "the documents were packed into rows of another length", "config.data.length"
        if reads.overlap == overlap == 1:
            raise DataError(
                what,
                where=where,
                why=f"packed for {width - 1}, asked for {reads.width - 1}",
                do=f"prepare anew for this length, or set it to {width - 1}",
            )
        asked = f"config.data.width={0 if reads.overlap else reads.width}"
        raise DataError(
            what,
            where="config.data.width",
            why=f"packed for {width} tokens that share {overlap} with the next piece of their document, "
            f"the objective reads {reads.width} that share {reads.overlap}",
            do=f"prepare anew with {asked}" + (f", config.data.length={reads.width - 1}" if reads.overlap else ""),
        )


def packed_width(meta: dict[str, Any]) -> tuple[int, int]:
    """(tokens of a packed row, how many of them the pieces of a long document share)."""
    return (meta["width"], 0) if meta.get("width") else (meta["length"] + 1, 1)


def _of_task(seed: int, name: str) -> int:
    return own_seed(seed, f"task/{name}")


def stem_of(directory: Path, part: str, split: str) -> str:
    """The beginning of the paths of a part's files: `.bin`, and of documents `.rows.bin`, `.pieces.bin` or `.documents.bin`."""
    return str(directory / part / split)


def files_of(directory: Path, part: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(split, path, sha256) of every file that data.json lists for a part."""
    found = []
    for split in SPLITS:
        facts, stem = part["splits"][split], stem_of(directory, part["name"], split)
        found.append((split, f"{stem}.bin", facts["digest"]))
        tables = [name for name in ("rows", "pieces", "documents") if f"{name}_digest" in facts]
        found += [(split, f"{stem}.{name}.bin", facts[f"{name}_digest"]) for name in tables]
    return found


def open_prepared(directory: str | Path, weights: tuple[float, ...] = ()) -> PreparedText:
    """Opens a prepared directory, reading every file once to compare its sha256 with data.json.

    `weights`: the shares of its parts, where it is a mixture that is to be trained on.

    Raises DataError naming the file that is missing, damaged or of another format version.
    """
    directory = Path(directory)
    meta = read_description(directory, "text", FORMAT)
    for part in meta["parts"]:
        for split, path, expected in files_of(directory, part):
            tokens = f"{part['splits'][split]['tokens']} {meta['dtype']} tokens of the split {split}"
            check_file(Path(path), expected, tokens)
    tokenizer = stored_tokenizer.opened(directory / TOKENIZER, meta)
    return PreparedText(tokenizer, tokenizer.vocabulary, directory, meta, weights)
