"""A corpus: the documents of one source, each in its split, and the files that their tokens are written to."""

from __future__ import annotations

import hashlib
import math
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.data import sources
from pretrainx.data.sources import Document
from pretrainx.data.splits import fraction
from pretrainx.data.tokenizer import Tokenizer

# Characters tokenised together: bounds memory while keeping the tokenizer's threads busy.
BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Part:
    """One source of text, alone or in a mixture.

    Attributes:
      name: what fingerprints, directories and reports call it; "" for a source that stands alone.
      weight: its share of the training rows, relative to the other parts' weights.
      source, paths, field: where documents come from (see `sources.documents`).
    """

    name: str = ""
    weight: float = field(default=1.0, metadata={"above": 0})
    source: str = field(default="stdlib", metadata={"choices": sources.KINDS})
    paths: tuple[str, ...] = ()
    field: str = "text"

    def preparing(self) -> dict[str, Any]:
        """The fields that decide which documents there are, as plain JSON values."""
        fields: dict[str, Any] = {"source": self.source}
        if self.source != "stdlib":
            fields["paths"] = list(self.paths)
        if self.source in ("jsonl", "array_record"):
            fields["field"] = self.field
        return fields

    def where(self, key: str) -> str:
        """The path of one of its fields in a configuration."""
        return f"config.data.parts ({self.name}): {key}" if self.name else f"config.data.{key}"


class Corpus:
    """The documents with text, each in its split. Read from the source at every pass, never held in memory whole.

    Attributes:
      documents: their number; bytes: of UTF-8 text; names: sha256 of all names.
    """

    def __init__(self, part: Part, held_out: float):
        self.part, self._held_out = part, held_out
        self.documents = self.bytes = 0
        fractions, names, first = [], hashlib.sha256(), None
        for document in self._read():
            first = first or document.name
            fractions.append(fraction(document.name))
            names.update(document.name.encode("utf-8", "surrogateescape") + b"\n")
            self.documents += 1
            self.bytes += len(document.text.encode())
        self.names = names.hexdigest()
        if not fractions:
            raise DataError(
                "the corpus is empty",
                where=part.where("paths"),
                why=f"no document of the source {part.source!r} contains text",
                do="name files that contain text",
            )
        if self.documents > 1:
            self._check_splits(sorted(fractions))
        elif len(next(self._read()).text) < 2 or held_out <= 0:
            raise DataError(
                "a single document cannot be split",
                where=f"{part.where('paths')}: {first}",
                why=f"{self.bytes} bytes, config.data.held_out is {held_out}",
                do="add text, or set config.data.held_out above 0",
            )

    def pieces(self) -> Iterator[tuple[str, Document]]:
        """(split, document). A single document is cut: its last fraction is held out."""
        for name, text in self._read():
            if self.documents > 1:
                split = "held_out" if fraction(name) < self._held_out else "train"
                yield split, Document(name, text)
            else:
                cut = min(max(round(len(text) * (1 - self._held_out)), 1), len(text) - 1)
                yield "train", Document(name, text[:cut])
                yield "held_out", Document(name, text[cut:])

    def training_texts(self) -> Iterator[str]:
        """The texts of the training split."""
        return (piece.text for split, piece in self.pieces() if split == "train")

    def _read(self) -> Iterator[Document]:
        part = self.part
        found = sources.documents(part.source, part.paths, part.field)
        # An empty document would only teach that an end follows an end.
        return (document for document in found if document.text)

    def _check_splits(self, fractions: list[float]) -> None:
        held_out = sum(share < self._held_out for share in fractions)
        if 0 < held_out < self.documents:
            return
        if held_out:
            what, do = "every document is held out", "lower config.data.held_out, or add documents"
        else:
            least = math.ceil(fractions[0] * 1e4 + 1) / 1e4
            what, do = "no document is held out", f"set config.data.held_out to {least} or more, or add documents"
        raise DataError(
            what,
            where=self.part.where("paths") if self.part.name else "config.data.held_out",
            why=f"{held_out} of {self.documents} documents have a name whose hash is below {self._held_out}",
            do=do,
        )


def weighted_texts(corpora: list[Corpus]) -> Iterator[str]:
    """Training texts of several corpora in proportion to their parts' weights, about as much text as there is in all.

    A part whose weight is above its share of the text comes repeatedly. Where it comes less than whole, its documents
    are taken evenly from all over it, the same ones each time.
    """
    total, weights = sum(corpus.bytes for corpus in corpora), sum(corpus.part.weight for corpus in corpora)
    for corpus in corpora:
        # How often the corpus is wanted, and how many characters are wanted and not yet given.
        times, owed = corpus.part.weight / weights * total / corpus.bytes, 0.0
        for text in corpus.training_texts():
            owed += times * len(text)
            for _ in range(round(owed / len(text))):
                owed -= len(text)
                yield text


class SplitWriter:
    """Appends documents to one token file, an end id after each. A text without a token (blanks to a WordPiece) is none.

    Attributes:
      lengths: int64[documents], the tokens of each document, its end id included.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, dtype: np.dtype):
        self._stream = path.open("wb")
        self._tokenizer, self._dtype = tokenizer, dtype
        self._digest = hashlib.sha256()
        self._texts: list[str] = []
        self._characters = 0
        self._documents = self._bytes = self._tokens = 0
        self._lengths = array("q")

    @property
    def lengths(self) -> np.ndarray:
        return np.array(self._lengths, np.int64)

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._characters += len(text)
        if self._characters >= BATCH_CHARACTERS:
            self._flush()

    def finish(self) -> dict[str, Any]:
        """Closes the file, forced to the disk: documents, bytes of text, tokens, and sha256 of the file."""
        self._flush()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        counts = {"documents": self._documents, "bytes": self._bytes, "tokens": self._tokens}
        return {**counts, "digest": self._digest.hexdigest()}

    def _flush(self) -> None:
        end = np.array([self._tokenizer.end])
        for text, ids in zip(self._texts, self._tokenizer.encode_batch(self._texts), strict=True):
            self._bytes += len(text.encode())
            if not len(ids):
                continue
            encoded = np.concatenate([ids, end]).astype(self._dtype).tobytes()
            self._stream.write(encoded)
            self._digest.update(encoded)
            self._documents += 1
            self._tokens += len(ids) + 1
            self._lengths.append(len(ids) + 1)
        self._texts, self._characters = [], 0
