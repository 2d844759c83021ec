"""Retrieval: whether a picture's caption, and a caption's picture, is among the nearest of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 1024  # queries whose similarities are in memory together


def ranks(queries: np.ndarray, others: np.ndarray, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """float64[Q]: how many others [M, E] that are not its own are nearer to a query [Q, E] than the nearest that is; of those
    as near half are. mine: int[Q], theirs: int[M], equal where one belongs to the other; each query has one at least.

    So an encoder for which all are equal finds nothing, equal captions of several pictures stand in each other's way, and
    what is no number is last.
    """
    found = []
    for first in range(0, len(queries), BLOCK):
        near = queries[first : first + BLOCK] @ others.T
        own = mine[first : first + BLOCK, None] == theirs[None]
        best = np.where(own, near, -np.inf).max(1)[:, None]
        # Not those that are nearer: a comparison with what is no number is False.
        farther, as_near = (~own & (near < best)).sum(1), (~own & (near == best)).sum(1)
        found.append((~own).sum(1) - farther - as_near / 2)
    return np.concatenate(found)


def recall(image: np.ndarray, text: np.ndarray, owner: np.ndarray, at: Sequence[int], split: str) -> dict[str, float]:
    """{"retrieval/<way>_recall@<k>_<N>-images_<M>-captions/<split>": share whose own is among the k nearest}, each with
    "<metric>/interval", half of a 95 % interval, and "retrieval/chance@<k>_<N>-images/<split>", of a caption that draws
    pictures.

    image: float32[N, E]; text: float32[M, E], captions; owner: int[M], the picture of each. Every caption is asked for its
    picture; a picture finds one of its captions, whichever is nearest.
    """
    values, number = {}, np.arange(len(image))
    how = f"{len(image)}-images_{len(text)}-captions/{split}"
    ways = ("image_to_text", (image, text, number, owner)), ("text_to_image", (text, image, owner, number))
    for way, given in ways:
        rank = ranks(*given)
        for k in at:
            values |= share(f"retrieval/{way}_recall@{k}_{how}", rank < k)
    return values | {f"retrieval/chance@{k}_{len(image)}-images/{split}": min(k / len(image), 1.0) for k in at}


def share(metric: str, hits: np.ndarray) -> dict[str, float]:
    """{metric: the share of hits, "<metric>/interval": half of the width of Wilson's 95 % interval}."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {metric: p, f"{metric}/interval": float(half)}
