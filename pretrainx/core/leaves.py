"""Bytes of the arrays of a tree, abstract ones too."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np


def bytes_of(tree: Any) -> int:
    """Of whole arrays, on however many devices they lie."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def bytes_on_device(tree: Any) -> int:
    """Of arrays with shardings on one device: every device holds an equal shard of each leaf."""
    shard = lambda leaf: jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    return bytes_of(jax.tree.map(shard, tree))
