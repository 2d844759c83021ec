"""Prepared text looked at from end to end: digests, ids, and the counts that data.json gives, counted again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.data import prepared_images, prepared_labelled, prepared_pairs
from pretrainx.data.directory import damaged, held_kind
from pretrainx.data.prepared import SPLITS, PreparedText, open_prepared, packed_width, stem_of

# Tokens looked at together.
CHUNK = 1 << 22


def verify(directory: str | Path) -> list[str]:
    """A line for each split of each part. Raises DataError naming the first file that is not as it should be.

    Of pictures see `verify_pictures`, of pairs `verify_pairs`, of labelled text `verify_labelled`. Of text every file is
    read: its sha256, the range of its ids, the documents, bytes and tokens it holds (bytes only of a tokenizer that loses
    none), and, where documents are packed, that the rows hold every target of the stream exactly once.
    """
    match held_kind(directory):
        case prepared_images.KIND:
            found = prepared_images.verify_pictures(prepared_images.open_images(directory))
            return [f"{split}: {line}" for split, line in found.items()]
        case prepared_pairs.KIND:
            found = prepared_pairs.verify_pairs(prepared_pairs.open_pairs(directory))
            return [f"{split}: {line}" for split, line in found.items()]
        case prepared_labelled.KIND:
            found = prepared_labelled.verify_labelled(prepared_labelled.open_labelled(directory))
            return [f"{split}: {line}" for split, line in found.items()]
    text, lines = open_prepared(directory), []
    for part in text.names:
        for split in SPLITS:
            facts = text.split(split, part)
            _check_stream(text, part, split, facts)
            line = f"{facts['documents']:,} documents, {facts['tokens']:,} tokens, {facts['bytes']:,} bytes"
            if text.segmented:
                _check_packing(text, part, split, facts)
                line += f", {facts['rows']:,} rows, {facts['fill']:.2%} full"
            elif text.meta["packing"] == "single":
                _check_documents(text, part, split)
            lines.append(f"{part} {split}".strip() + f": {line}")
    return lines


def _check_stream(text: PreparedText, part: str, split: str, facts: dict[str, Any]) -> None:
    path, tokens = Path(stem_of(text.directory, part, split) + ".bin"), np.asarray(text.tokens(split, part))
    found = {"tokens": len(tokens), "documents": 0, "bytes": 0}
    for first in range(0, len(tokens), CHUNK):
        chunk = tokens[first : first + CHUNK]
        text.vocabulary.check(chunk, f"{path}, tokens {first} to {first + len(chunk) - 1}")
        found["documents"] += int((chunk == text.tokenizer.end).sum())
        found["bytes"] += int(text.tokenizer.bytes_per_token[chunk].sum())
    if not text.tokenizer.lossless:
        del found["bytes"]
    for name, count in found.items():
        if count != facts[name]:
            raise damaged(path, f"{count} {name}, data.json says {facts[name]}")


def _check_packing(text: PreparedText, part: str, split: str, facts: dict[str, Any]) -> None:
    stem, (width, overlap) = stem_of(text.directory, part, split), packed_width(text.meta)
    borders = np.fromfile(f"{stem}.rows.bin", "<i8")
    pieces = np.fromfile(f"{stem}.pieces.bin", "<i8").reshape(-1, 2)
    rising = len(borders) == facts["rows"] + 1 and borders[0] == 0 and (np.diff(borders) > 0).all()
    if not rising or not borders[-1] == len(pieces) == facts["pieces"]:
        raise damaged(Path(f"{stem}.rows.bin"), "its rows do not follow one another through the pieces")
    if (np.add.reduceat(pieces[:, 1], borders[:-1]) > width).any():
        raise damaged(Path(f"{stem}.pieces.bin"), f"a row holds more than {width} tokens")
    starts, counts = pieces[np.argsort(pieces[:, 0])].T
    ends = np.flatnonzero(np.asarray(text.tokens(split, part)) == text.tokenizer.end)
    # In the stream's order, a piece begins where the last ended: at what they share, or after it where a document ended.
    last = starts + counts - 1
    expected = np.concatenate([[0], np.where(np.isin(last[:-1], ends), last[:-1] + 1, last[:-1] + 1 - overlap)])
    if (starts != expected).any() or last[-1] != facts["tokens"] - 1:
        raise damaged(Path(f"{stem}.pieces.bin"), "its pieces do not hold every target exactly once")


def _check_documents(text: PreparedText, part: str, split: str) -> None:
    path = Path(stem_of(text.directory, part, split) + ".documents.bin")
    ends = np.flatnonzero(np.asarray(text.tokens(split, part)) == text.tokenizer.end)
    if not np.array_equal(np.fromfile(path, "<i8"), np.concatenate([[0], ends + 1])):
        raise damaged(path, "its documents do not end where the stream's do")
