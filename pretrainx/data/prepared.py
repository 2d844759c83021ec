"""A directory of prepared text: two token files, the tokenizer, and what data.json says of them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.tokenizer import Tokenizer

FORMAT = 1
DESCRIPTION, TOKENIZER = "data.json", "tokenizer.json"
SPLITS = ("train", "held_out")
# Named in the fingerprint: a change of what a row is must not pass for the same data.
PACKING = "rows-overlap-by-one/1"
TRANSFORMS = ("split-by-name/1", "end-of-document/1", "shuffle-by-epoch/1")


@dataclass(frozen=True)
class PreparedText:
    """Tokens of a training and a held-out split, an end-of-document id after each document.

    Attributes:
      tokenizer, vocabulary: what the ids mean.
      directory: where the files are.
      meta: the content of data.json: format, preparing (the configuration), source, splits (documents, bytes of text,
        tokens, sha256 of each), dtype, tokenizer (its digest), vocab_size.
    """

    tokenizer: Tokenizer = field(compare=False)
    vocabulary: Vocabulary
    directory: Path
    meta: dict[str, Any]

    def tokens(self, split: str) -> np.memmap:
        """uint16[n] or uint32[n], read from disk as needed. Raises ConfigError for an unknown split."""
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}", why=nearest(split, SPLITS), do="choose 'train' or 'held_out'")
        return np.memmap(self.directory / file_of(split), dtype=self.meta["dtype"], mode="r")

    def fingerprint(self, seed: int, batch_size: int, length: int) -> dict[str, Any]:
        """What decides which tokens a step reads, as plain JSON values; equal on every machine that has the same data.

        The number of processes, devices and prefetched batches is not in it, and neither is a directory's name.
        """
        train, held_out = (self.meta["splits"][split] for split in SPLITS)
        return {
            "sources": [
                {
                    **self.meta["source"],
                    "records": train["documents"],
                    "tokens": train["tokens"],
                    "rows": (train["tokens"] - 1) // length,
                    "digest": train["digest"],
                    "held_out_digest": held_out["digest"],
                }
            ],
            "weights": [1.0],
            "seed": seed,
            "batch_size": batch_size,
            "length": length,
            "packing": PACKING,
            "transforms": list(TRANSFORMS),
            "tokenizer": self.meta["tokenizer"],
            "vocab_size": self.meta["vocab_size"],
        }


def file_of(split: str) -> str:
    return f"{split}.bin"


def write_description(directory: Path, meta: dict[str, Any]) -> None:
    """Writes data.json with a digest of itself, and forces it and its directory to the disk."""
    path = directory / DESCRIPTION
    with path.open("w", encoding="utf-8") as stream:
        json.dump({**meta, "digest": _digest_of(meta)}, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """A rename or a new name survives a power cut only when the directory itself was written."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_prepared(directory: str | Path) -> PreparedText:
    """Opens a prepared directory, reading every file once to compare its sha256 with data.json.

    Raises DataError naming the file that is missing, damaged or of another format version.
    """
    directory = Path(directory)
    meta = _description(directory / DESCRIPTION)
    for split in SPLITS:
        path = directory / file_of(split)
        expected = meta["splits"][split]
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _damaged(path, str(error)) from error
        if found != expected["digest"]:
            size = expected["tokens"] * np.dtype(meta["dtype"]).itemsize
            there = f"sha256 {found[:12]}... of {path.stat().st_size} bytes"
            raise _damaged(path, f"{there}; prepared {expected['digest'][:12]}... of {size} bytes")
    path = directory / TOKENIZER
    if not path.is_file():
        raise _damaged(path, "no such file")
    tokenizer = Tokenizer.load(path)
    if tokenizer.digest != meta["tokenizer"]:
        raise _damaged(path, f"sha256 {tokenizer.digest[:12]}..., prepared with {meta['tokenizer'][:12]}...")
    return PreparedText(tokenizer, tokenizer.vocabulary, directory, meta)


def _description(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            "a directory does not hold prepared text",
            where=str(path),
            why=str(error),
            do="choose an empty or new directory, or remove this one if nothing in it is needed",
        ) from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(meta, dict):
        raise _damaged(path, "it holds no JSON object")
    if meta.get("format") != FORMAT:
        raise DataError(
            "the prepared data have another format version",
            where=str(path),
            why=f"version {meta.get('format')}, this program reads {FORMAT}",
            do=f"remove {path.parent} and run again: the data are prepared anew",
        )
    if meta.pop("digest", None) != _digest_of(meta):
        raise _damaged(path, "its content does not match its own digest")
    return meta


def _digest_of(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        "a file of the prepared data is damaged or missing",
        where=str(path),
        why=why,
        do=f"remove {path.parent} and run again (the data are prepared anew), or copy it from an intact directory",
    )
