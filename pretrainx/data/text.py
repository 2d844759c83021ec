"""Text made ready for language models: tokenised once, split by document, kept in a directory."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.data import prepared, sources
from pretrainx.data.prepared import PreparedText
from pretrainx.data.sources import Document
from pretrainx.data.tokenizer import SMALLEST, Tokenizer

# Characters tokenised together: bounds memory while keeping the tokenizer's threads busy.
BATCH_CHARACTERS = 1 << 20


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A text corpus as token rows.

    Attributes:
      source, paths, field: where documents come from (see `sources.documents`).
      tokenizer: "bpe" (trained on the training split), "bytes", or the path of a tokenizer.json.
      vocab_size: ids of a trained tokenizer, 256 bytes and 2 specials included.
      length: T, targets per row. Not part of the preparation: one directory serves any length.
      held_out: the fraction of documents kept from training (of the text, where there is one document).
      cache: directory of prepared data shared between runs; "" means the run's own.
    """

    source: str = dataclasses.field(default="stdlib", metadata={"choices": sources.KINDS})
    paths: tuple[str, ...] = ()
    field: str = "text"
    tokenizer: str = "bpe"
    vocab_size: int = dataclasses.field(default=1024, metadata={"min": SMALLEST})
    length: int = dataclasses.field(default=256, metadata={"min": 1})
    held_out: float = dataclasses.field(default=0.05, metadata={"min": 0.0, "max": 0.9})
    cache: str = ""

    def preparing(self) -> dict[str, Any]:
        """The fields that decide what is prepared, as plain JSON values."""
        fields: dict[str, Any] = {"source": self.source, "tokenizer": self.tokenizer, "held_out": self.held_out}
        if self.source != "stdlib":
            fields["paths"] = list(self.paths)
        if self.source == "jsonl":
            fields["field"] = self.field
        if self.tokenizer == "bpe":
            fields["vocab_size"] = self.vocab_size
        return fields


def prepare(config: TextConfig, directory: str | Path, log: Callable[[str], None] = print) -> PreparedText:
    """The prepared text of a configuration: opened from `directory`, or made there.

    It is made in a sibling directory that takes the name when complete, so half a preparation never looks whole; of
    two processes that prepare at once, one wins and the other uses its result. Reuse compares the configuration and
    the digests of all files; the source is not read again.

    Raises DataError for an unusable source, a split without documents, a damaged file, or a directory made with
    another configuration (the field and both values are named); ConfigError for a configuration that cannot be meant.
    """
    directory = Path(directory)
    if directory.is_dir() and any(directory.iterdir()):
        return _reuse(config, directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in sorted(directory.parent.glob(f".{directory.name}.preparing-*")):
        log(f"data: {leftover} is an unfinished preparation; remove it if no process is writing it")
    # Not mkdtemp: its directories are closed to others, and this one stays.
    work = directory.parent / f".{directory.name}.preparing-{uuid.uuid4().hex[:12]}"
    work.mkdir()
    try:
        _make(config, work, log)
        try:
            os.rename(work, directory)
        except OSError:
            if not (directory / prepared.DESCRIPTION).is_file():
                raise
            return _reuse(config, directory)  # another process was faster
        prepared.sync_directory(directory.parent)
    except OSError as error:
        raise DataError(
            "the data could not be prepared",
            where=str(directory),
            why=str(error),
            do="make room, mend permissions or choose another directory (config.data.cache), then run again",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return prepared.open_prepared(directory)


def _reuse(config: TextConfig, directory: Path) -> PreparedText:
    text = prepared.open_prepared(directory)
    made, wanted = text.meta["preparing"], config.preparing()
    differing = [name for name in sorted(made.keys() | wanted.keys()) if made.get(name) != wanted.get(name)]
    if differing:
        raise DataError(
            "the prepared data were made with another configuration",
            where=", ".join(f"config.data.{name}" for name in differing),
            why="\n".join(f"{name}: prepared {made.get(name)!r}, asked {wanted.get(name)!r}" for name in differing),
            do=f"prepare elsewhere (another workdir or config.data.cache), or remove {directory} to prepare anew",
        )
    path = Path(config.tokenizer).expanduser()
    from_file = config.tokenizer not in ("bpe", "bytes") and path.is_file()
    if from_file and Tokenizer.load(path).digest != text.tokenizer.digest:
        raise DataError(
            "the tokenizer changed after the data were prepared",
            where=f"config.data.tokenizer: {path}",
            why=f"{directory} was made with another content of that file",
            do=f"restore the file, or remove {directory} to prepare anew",
        )
    return text


def _make(config: TextConfig, work: Path, log: Callable[[str], None]) -> None:
    corpus = _Corpus(config)
    log(f"data: {config.source}, {corpus.documents} documents, {corpus.bytes:,} bytes")
    tokenizer = _tokenizer(config, corpus)
    log(f"data: tokenizer with {tokenizer.vocabulary.size} ids")
    dtype = np.dtype("<u2" if tokenizer.vocabulary.size <= 1 << 16 else "<u4")
    writers = {split: _SplitWriter(work / prepared.file_of(split), tokenizer, dtype) for split in prepared.SPLITS}
    for split, document in corpus.pieces():
        writers[split].add(document.text)
    splits = {split: writer.finish() for split, writer in writers.items()}
    if sum(split["bytes"] for split in splits.values()) != corpus.bytes:
        raise DataError(
            "the source changed while it was read",
            where="config.data.paths",
            why=f"{corpus.bytes:,} bytes at first, {sum(split['bytes'] for split in splits.values()):,} later",
            do="wait until the source is complete, then run again",
        )
    for name, split in splits.items():
        log(f"data: {name}, {split['documents']} documents, {split['tokens']:,} tokens, {split['bytes']:,} bytes")
    tokenizer.save(work / prepared.TOKENIZER)
    meta = {
        "format": prepared.FORMAT,
        "preparing": config.preparing(),
        "source": {"kind": config.source, "names": corpus.names},
        "splits": splits,
        "dtype": dtype.name,
        "tokenizer": tokenizer.digest,
        "vocab_size": tokenizer.vocabulary.size,
    }
    prepared.write_description(work, meta)


def _tokenizer(config: TextConfig, corpus: _Corpus) -> Tokenizer:
    if config.tokenizer == "bytes":
        return Tokenizer.of_bytes()
    if config.tokenizer == "bpe":
        # Held-out text must not even choose the merges.
        return Tokenizer.train((piece.text for split, piece in corpus.pieces() if split == "train"), config.vocab_size)
    path = Path(config.tokenizer).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"unknown tokenizer {config.tokenizer!r}",
            where="config.data.tokenizer",
            why=f"it is no file; {nearest(config.tokenizer, ('bpe', 'bytes'))}",
            do="write 'bpe', 'bytes' or the path of a tokenizer.json",
        )
    return Tokenizer.load(path)


class _Corpus:
    """The documents with text, each in its split. Read from the source at every pass, never held in memory whole.

    Attributes:
      documents: their number; bytes: of UTF-8 text; names: sha256 of all names.
    """

    def __init__(self, config: TextConfig):
        self._config = config
        self.documents = self.bytes = 0
        fractions, names, first = [], hashlib.sha256(), None
        for document in self._read():
            first = first or document.name
            fractions.append(_fraction(document.name))
            names.update(document.name.encode("utf-8", "surrogateescape") + b"\n")
            self.documents += 1
            self.bytes += len(document.text.encode())
        self.names = names.hexdigest()
        if not fractions:
            raise DataError(
                "the corpus is empty",
                where="config.data.paths",
                why=f"no document of the source {config.source!r} contains text",
                do="name files that contain text",
            )
        if self.documents > 1:
            self._check_splits(sorted(fractions))
        elif len(next(self._read()).text) < 2 or config.held_out <= 0:
            raise DataError(
                "a single document cannot be split",
                where=f"config.data.paths: {first}",
                why=f"{self.bytes} bytes, config.data.held_out is {config.held_out}",
                do="add text, or set config.data.held_out above 0",
            )

    def pieces(self) -> Iterator[tuple[str, Document]]:
        """(split, document). A single document is cut: its last fraction is held out."""
        for name, text in self._read():
            if self.documents > 1:
                split = "held_out" if _fraction(name) < self._config.held_out else "train"
                yield split, Document(name, text)
            else:
                cut = min(max(round(len(text) * (1 - self._config.held_out)), 1), len(text) - 1)
                yield "train", Document(name, text[:cut])
                yield "held_out", Document(name, text[cut:])

    def _read(self) -> Iterator[Document]:
        config = self._config
        found = sources.documents(config.source, config.paths, config.field)
        # An empty document would only teach that an end follows an end.
        return (document for document in found if document.text)

    def _check_splits(self, fractions: list[float]) -> None:
        held_out = sum(fraction < self._config.held_out for fraction in fractions)
        if 0 < held_out < self.documents:
            return
        if held_out:
            what, do = "every document is held out", "lower config.data.held_out, or add documents"
        else:
            least = math.ceil(fractions[0] * 1e4 + 1) / 1e4
            what, do = "no document is held out", f"set config.data.held_out to {least} or more, or add documents"
        raise DataError(
            what,
            where="config.data.held_out",
            why=f"{held_out} of {self.documents} documents have a name whose hash is below {self._config.held_out}",
            do=do,
        )


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone: adding documents moves no other across the splits."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class _SplitWriter:
    """Appends documents to one token file, an end id after each."""

    def __init__(self, path: Path, tokenizer: Tokenizer, dtype: np.dtype):
        self._stream = path.open("wb")
        self._tokenizer, self._dtype = tokenizer, dtype
        self._digest = hashlib.sha256()
        self._texts: list[str] = []
        self._characters = 0
        self._documents = self._bytes = self._tokens = 0

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
            encoded = np.concatenate([ids, end]).astype(self._dtype).tobytes()
            self._stream.write(encoded)
            self._digest.update(encoded)
            self._documents += 1
            self._bytes += len(text.encode())
            self._tokens += len(ids) + 1
        self._texts, self._characters = [], 0
