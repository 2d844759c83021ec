"""Whole documents in rows of one length: which pieces share a row is decided once, when the data are prepared.

Best-fit decreasing within windows of the corpus (Ding et al. 2024, arXiv:2404.10830, sec. 2, there over the whole
corpus): a document is cut only where it is longer than a row, and little of a row stays empty.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

# Pieces looked at together. More fill rows no better: with thousands, some piece fits nearly every gap.
WINDOW = 1 << 16


def cut(lengths: np.ndarray, width: int, overlap: int = 1) -> np.ndarray:
    """int64[pieces, 2] (start, count), in order: documents of `lengths` tokens, laid end to end, in pieces of at most `width`.

    Where the pieces of a long document overlap by one token, each of its tokens but the first is the target of one piece.
    """
    lengths = np.asarray(lengths, np.int64)
    targets, stride = lengths - overlap, width - overlap
    counts = -(-targets // stride)
    document = np.repeat(np.arange(len(lengths)), counts)
    within = (np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)) * stride
    starts = (np.cumsum(lengths) - lengths)[document] + within
    return np.stack([starts, np.minimum(stride, targets[document] - within) + overlap], axis=1)


def best_fit(counts: np.ndarray, capacity: int, least: int = 2) -> np.ndarray:
    """int64[n]: the row of each piece. Longest first, each into the row that it leaves least room in, else a new one.

    No piece is shorter than `least`.
    """
    rows = np.empty(len(counts), np.int64)
    spaces: list[int] = []  # ascending; those that some open row has left
    open_rows: dict[int, list[int]] = {}
    opened = 0
    for piece in np.argsort(-counts, kind="stable").tolist():
        count = int(counts[piece])
        place = bisect.bisect_left(spaces, count)
        if place == len(spaces):
            row, space = opened, capacity
            opened += 1
        else:
            space = spaces[place]
            row = open_rows[space].pop()
            if not open_rows[space]:
                del open_rows[space], spaces[place]
        rows[piece] = row
        left = space - count
        if left >= least:
            if left not in open_rows:
                open_rows[left] = []
                bisect.insort(spaces, left)
            open_rows[left].append(row)
    return rows


def pack(lengths: np.ndarray, width: int, overlap: int = 1, window: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `width` tokens for documents that lie end to end, a pure function of its arguments.

    Args:
      lengths: int64[documents], tokens of each; width: T + 1, or what else an objective reads; overlap: the tokens that
        pieces of one document share, 0 or 1; window: how many pieces are packed together.

    Returns (borders int64[rows + 1], pieces int64[n, 2]): row r holds pieces[borders[r]:borders[r + 1]], each (start,
    count) in the token stream, in its order. Rows are in the order of their first piece.
    """
    pieces = cut(lengths, width, overlap)
    rows, opened = np.empty(len(pieces), np.int64), 0
    for first in range(0, len(pieces), window):
        found = best_fit(pieces[first : first + window, 1], width, least=1 + overlap)
        # Numbered by first appearance: a prefix of the rows is then a fair sample of a prefix of the corpus.
        _, appeared, inverse = np.unique(found, return_index=True, return_inverse=True)
        number = np.empty(len(appeared), np.int64)
        number[np.argsort(appeared)] = np.arange(len(appeared))
        rows[first : first + window] = opened + number[inverse]
        opened += len(appeared)
    order = np.argsort(rows, kind="stable")
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=opened))]).astype(np.int64), pieces[order]


def write_packing(stem: Path, lengths: np.ndarray, width: int, overlap: int) -> dict[str, Any]:
    """Packs a split and writes STEM.rows.bin and STEM.pieces.bin: rows, pieces, fill (tokens over places), sha256 of both."""
    borders, pieces = pack(lengths, width, overlap)
    digests = {f"{name}_digest": _write(stem, name, table) for name, table in (("rows", borders), ("pieces", pieces))}
    places = (len(borders) - 1) * width
    fill = round(float(pieces[:, 1].sum()) / max(places, 1), 6)
    return {"rows": len(borders) - 1, "pieces": len(pieces), "fill": fill, **digests}


def write_documents(stem: Path, lengths: np.ndarray) -> dict[str, Any]:
    """Writes STEM.documents.bin: where each document begins in the stream, and the stream's length; its sha256.

    Which rows they make is left to the reader: one table serves every width.
    """
    borders = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return {"documents_digest": _write(stem, "documents", borders)}


def _write(stem: Path, name: str, table: np.ndarray) -> str:
    """Writes STEM.NAME.bin, forced to the disk; its sha256."""
    encoded = table.astype("<i8").tobytes()
    with Path(f"{stem}.{name}.bin").open("wb") as stream:
        stream.write(encoded)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(encoded).hexdigest()
