"""Retrieval: whether a picture's caption, and a caption's picture, is among the nearest of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 1024  # queries whose similarities are in memory together


def ranks(queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64[N]: how many others [N, E] are nearer to query n than its own, the n-th; of those as near half are.

    So an encoder for which all are equal finds nothing, and equal captions stand in each other's way.
    """
    found = []
    for first in range(0, len(queries), BLOCK):
        block = queries[first : first + BLOCK]
        near = block @ others.T
        own = near[np.arange(len(block)), first + np.arange(len(block))][:, None]
        found.append((near > own).sum(1) + ((near == own).sum(1) - 1) / 2)
    return np.concatenate(found)


def recall(image: np.ndarray, text: np.ndarray, at: Sequence[int], split: str) -> dict[str, float]:
    """{"retrieval/<way>_recall@<k>_n<N>/<split>": share of rows whose own is among the k nearest}, both ways, each with
    "<metric>/interval", half of a 95 % interval, and "retrieval/chance@<k>_n<N>/<split>", of image and text float32[N, E]."""
    values = {}
    for way, queries, others in (("image_to_text", image, text), ("text_to_image", text, image)):
        rank = ranks(queries, others)
        for k in at:
            values |= share(f"retrieval/{way}_recall@{k}_n{len(image)}/{split}", rank < k)
    return values | {f"retrieval/chance@{k}_n{len(image)}/{split}": min(k / len(image), 1.0) for k in at}


def share(metric: str, hits: np.ndarray) -> dict[str, float]:
    """{metric: the share of hits, "<metric>/interval": half of the width of Wilson's 95 % interval}."""
    n, p, z = len(hits), float(np.mean(hits)), 1.96
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {metric: p, f"{metric}/interval": float(half)}
