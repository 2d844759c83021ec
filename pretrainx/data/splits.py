"""Which split a record belongs to: a function of its name, so that adding records moves no other across the splits."""

from __future__ import annotations

import hashlib

import numpy as np


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def few_of_each(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int64[n], rising: `count` places of each label in labels int[N], or all where there are fewer; of one seed more of them
    contain the fewer. Labels below 0 are none."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = np.asarray(labels)[order]
    found = [order[shuffled == label][:count] for label in np.unique(shuffled[shuffled >= 0])]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
