"""A directory of prepared text: token files of each part, the tokenizer, and what data.json says of them."""

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
from pretrainx.data.held_out import HeldOutText
from pretrainx.data.rows import MixedRows, PackedRows, Rows, TokenRows, TrainingRows
from pretrainx.data.tokenizer import Tokenizer

FORMAT = 2
DESCRIPTION, TOKENIZER = "data.json", "tokenizer.json"
SPLITS = ("train", "held_out")
# Named in the fingerprint: a change of what a row is must not pass for the same data.
PACKINGS = {"stream": "rows-overlap-by-one/1", "documents": "whole-documents-best-fit/1"}
TRANSFORMS = ("split-by-name/1", "end-of-document/1", "shuffle-by-epoch/1")
MIXING = "mix-by-weight/1"


@dataclass(frozen=True)
class PreparedText:
    """Tokens of a training and a held-out split of each part, an end-of-document id after each document.

    Attributes:
      tokenizer, vocabulary: what the ids mean.
      directory: where the files are.
      meta: the content of data.json: format, preparing (the configuration), packing, length (T of packed rows, else 0),
        parts (each name, source, splits), splits (documents, bytes of text, tokens, digest, of all parts together),
        dtype, tokenizer (its digest), vocab_size. The splits of a part have the sha256 of their token file, and, packed,
        rows, pieces, fill and the sha256 of the tables of both.
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
    def segmented(self) -> bool:
        """Whether rows hold whole documents, told apart by the field `segments`."""
        return self.meta["packing"] == "documents"

    def tokens(self, split: str, part: str | None = None) -> np.ndarray:
        """uint16[n] or uint32[n] of a part, mapped from disk; of all parts behind one another where none is named.

        Raises ConfigError for an unknown split or part.
        """
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}", why=nearest(split, SPLITS), do="choose 'train' or 'held_out'")
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
        raise ConfigError(f"unknown part {part!r}", where="config.data.parts", why=nearest(part, self.names))

    def rows(self, split: str, part: str, length: int) -> TokenRows | PackedRows:
        """The rows of T = `length` of one part's split. Raises DataError where rows were packed with another length."""
        if not self.segmented:
            return TokenRows(self.tokens(split, part), length)
        self._check_length(length)
        stem = stem_of(self.directory, part, split)
        borders = np.memmap(stem + ".rows.bin", dtype="<i8", mode="r")
        pieces = np.memmap(stem + ".pieces.bin", dtype="<i8", mode="r").reshape(-1, 2)
        return PackedRows(self.tokens(split, part), borders, pieces, length, self.vocabulary.special("pad"))

    def training_rows(self, length: int, batch_size: int, seed: int) -> TrainingRows:
        """The training batches by step, of all parts in the proportion of their weights."""
        parts = [(name, self.rows("train", name, length)) for name in self.names]
        source: Rows = parts[0][1] if self.names == ("",) else MixedRows(parts, self._shares())
        return TrainingRows(source, batch_size, seed, self.vocabulary)

    def epochs(self, rows: int, length: int) -> dict[str, float]:
        """{part: how often it is read whole by the first `rows` training rows}."""
        shares = zip(self.names, self._shares(), strict=True)
        return {name: share * rows / len(self.rows("train", name, length)) for name, share in shares}

    def held_out(self, part: str, length: int, limit: int = 0) -> HeldOutText:
        """A part's held-out text, its first `limit` targets (rounded up to packed rows) where that is above 0."""
        tokens = np.asarray(self.tokens("held_out", part))
        if not self.segmented:
            return HeldOutText(tokens[: limit + 1] if limit else tokens, length, self.vocabulary)
        packed = self.rows("held_out", part, length)
        rows = min(len(packed), -(-limit // length)) if limit else len(packed)
        return HeldOutText(tokens, length, self.vocabulary, packed, rows)

    def fingerprint(self, seed: int, batch_size: int, length: int) -> dict[str, Any]:
        """What decides which tokens a step reads, as plain JSON values; equal on every machine that has the same data.

        The number of processes, devices and prefetched batches is not in it, and neither is a directory's name.
        """
        mixed = self.names != ("",)
        return {
            "sources": [self._source(part, length) for part in self.meta["parts"]],
            "weights": list(self._shares()),
            "seed": seed,
            "batch_size": batch_size,
            "length": length,
            "packing": PACKINGS[self.meta["packing"]],
            "transforms": [*TRANSFORMS, *([MIXING] if mixed else [])],
            "tokenizer": self.meta["tokenizer"],
            "vocab_size": self.meta["vocab_size"],
        }

    def _source(self, part: dict[str, Any], length: int) -> dict[str, Any]:
        train, held_out = (part["splits"][split] for split in SPLITS)
        return {
            **({"name": part["name"]} if part["name"] else {}),
            **part["source"],
            "records": train["documents"],
            "tokens": train["tokens"],
            "rows": train["rows"] if self.segmented else (train["tokens"] - 1) // length,
            "digest": train["digest"],
            "held_out_digest": held_out["digest"],
        }

    def _shares(self) -> tuple[float, ...]:
        """Of each part, its share of the rows; the sum is 1."""
        if len(self.names) > 1 and len(self.weights) != len(self.names):
            raise ValueError(f"{len(self.names)} parts need as many weights, not {len(self.weights)}")
        weights = self.weights if len(self.names) > 1 else (1.0,)
        return tuple(weight / sum(weights) for weight in weights)

    def _check_length(self, length: int) -> None:
        if length != self.meta["length"]:
            raise DataError(
                "the documents were packed into rows of another length",
                where="config.data.length",
                why=f"packed for {self.meta['length']}, asked for {length}",
                do=f"prepare anew for this length, or set it to {self.meta['length']}",
            )


def stem_of(directory: Path, part: str, split: str) -> str:
    """The beginning of the paths of a part's files: `.bin`, and packed `.rows.bin` and `.pieces.bin`, follow."""
    return str(directory / part / split)


def files_of(directory: Path, part: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(split, path, sha256) of every file that data.json lists for a part."""
    found = []
    for split in SPLITS:
        facts, stem = part["splits"][split], stem_of(directory, part["name"], split)
        found.append((split, f"{stem}.bin", facts["digest"]))
        if "rows_digest" in facts:
            found += [(split, f"{stem}.{name}.bin", facts[f"{name}_digest"]) for name in ("rows", "pieces")]
    return found


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


def open_prepared(directory: str | Path, weights: tuple[float, ...] = ()) -> PreparedText:
    """Opens a prepared directory, reading every file once to compare its sha256 with data.json.

    `weights`: the shares of its parts, where it is a mixture that is to be trained on.

    Raises DataError naming the file that is missing, damaged or of another format version.
    """
    directory = Path(directory)
    meta = _description(directory / DESCRIPTION)
    for part in meta["parts"]:
        for split, name, expected in files_of(directory, part):
            path = Path(name)
            try:
                with path.open("rb") as stream:
                    found = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise damaged(path, str(error)) from error
            if found != expected:
                there = f"sha256 {found[:12]}... of {path.stat().st_size} bytes"
                tokens = f"{part['splits'][split]['tokens']} {meta['dtype']} tokens of the split {split}"
                raise damaged(path, f"{there}; prepared {expected[:12]}... for {tokens}")
    path = directory / TOKENIZER
    if not path.is_file():
        raise damaged(path, "no such file")
    tokenizer = Tokenizer.load(path)
    if tokenizer.digest != meta["tokenizer"]:
        raise damaged(path, f"sha256 {tokenizer.digest[:12]}..., prepared with {meta['tokenizer'][:12]}...")
    return PreparedText(tokenizer, tokenizer.vocabulary, directory, meta, weights)


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
        raise damaged(path, str(error)) from error
    if not isinstance(meta, dict):
        raise damaged(path, "it holds no JSON object")
    if meta.get("format") != FORMAT:
        raise DataError(
            "the prepared data have another format version",
            where=str(path),
            why=f"version {meta.get('format')}, this program reads {FORMAT}",
            do=f"remove {path.parent} and run again: the data are prepared anew",
        )
    if meta.pop("digest", None) != _digest_of(meta):
        raise damaged(path, "its content does not match its own digest")
    return meta


def _digest_of(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def damaged(path: Path, why: str) -> DataError:
    return DataError(
        "a file of the prepared data is damaged or missing",
        where=str(path),
        why=why,
        do=f"remove {path.parent} and run again (the data are prepared anew), or copy it from an intact directory",
    )
