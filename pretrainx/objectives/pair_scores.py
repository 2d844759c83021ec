"""How well each row of one side finds its partner among all rows of the other, without ever holding all pairs at once.

Both sides are [N, E], laid over devices by rows. The scores of all pairs are [N, N]: 268 MB for 8,192 rows in float32, several
times in a backward pass. So a device scores `block` of its rows at a time against all partners ("rows"), or all of its rows
against partners that travel around ("ring"). Memory grows with N, not with its square. Each
block is scored again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pretrainx.models.layers import wide
from pretrainx.parallel.ring import around
from pretrainx.parallel.rules import constrain, row_groups

FORMS = ("rows", "ring")


class Side(NamedTuple):
    """Rows of one side: vectors [N, E], number int32[N] of each, marks uint32[N, 2] (equal where captions are), valid
    bool[N]."""

    vectors: jax.Array
    number: jax.Array
    marks: jax.Array
    valid: jax.Array


class Found(NamedTuple):
    """Of each row: `sum` over strangers ([N], as the kind of score has it), and `best`, the highest logit of a stranger [N]."""

    sum: jax.Array
    best: jax.Array


@dataclass(frozen=True)
class Kind:
    """A kind of score. `of`: logits [n, M], float32 or wider, of strangers -> their sum [n], where those that do not count are
    `lowest`; `join`: two such sums together; `nothing`: the sum of no stranger, a function of the dtype."""

    of: Callable[[jax.Array], jax.Array]
    join: Callable[[jax.Array, jax.Array], jax.Array]
    nothing: Callable[[jnp.dtype], float]


def lowest(dtype: jnp.dtype) -> float:
    """A finite number below all logits."""
    return float(jnp.finfo(dtype).min) / 2


# The logarithm of the sum of exponentials (CLIP), and the sum of -log sigmoid(-logit) (SigLIP).
SOFTMAX = Kind(lambda logits: jax.nn.logsumexp(logits, axis=1), jnp.logaddexp, lowest)
SIGMOID = Kind(lambda logits: jax.nn.softplus(logits).sum(1), jnp.add, lambda dtype: 0.0)


def own(image: jax.Array, text: jax.Array, scale: jax.Array, offset: jax.Array | float = 0.0) -> jax.Array:
    """The logit of each pair [N], of unit vectors [N, E]."""
    return scale * (wide(image) * wide(text)).sum(1) + offset


def strangers(
    vectors: jax.Array,
    others: jax.Array,
    scale: jax.Array,
    offset: jax.Array | float,
    marks: jax.Array,
    valid: jax.Array,
    kind: Kind,
    form: str,
    block: int,
) -> Found:
    """Scores of each row of `vectors` [N, E] and all rows of `others` [N, E] but its own: logits are scale cosine + offset.

    Left out are rows that are not valid, and those whose marks are equal to the row's own.
    """
    number = jnp.arange(len(vectors))
    rows = Side(wide(vectors), number, marks, valid)
    partners = rows._replace(vectors=wide(others))
    shared = jnp.asarray(scale), jnp.asarray(offset)
    if form == "ring":
        meet = lambda *given: _in_blocks(kind, block, *given)
        return around(meet, rows, partners, shared, lambda rows: _nothing(kind, rows))
    groups = row_groups(len(vectors))
    count = blocks_of(len(vectors) // groups, block)
    # Every device has rows of each block: row j, j + count, ...
    cut = lambda x: constrain(_cut(x, groups, count), None, "batch", *[None] * (x.ndim - 1))
    gathered = jax.tree.map(lambda x: constrain(x, *[None] * x.ndim), partners)
    scored = jax.checkpoint(lambda part, gathered, shared: _meet(kind, _nothing(kind, part), part, gathered, shared))
    if count == 1:
        return scored(rows, gathered, shared)
    found = jax.lax.map(lambda part: scored(part, gathered, shared), jax.tree.map(cut, rows))
    return jax.tree.map(lambda x: constrain(_whole(x, groups), "batch"), found)


def blocks_of(rows: int, most: int) -> int:
    """Into how many equal blocks of at most `most` rows so many are cut."""
    return next(count for count in range(math.ceil(rows / most), rows + 1) if rows % count == 0)


def marks_of(tokens: jax.Array) -> jax.Array:
    """uint32[N, 2] of tokens int32[N, T]: two sums that are equal for equal captions, and for others by a chance of 2^-64."""
    places = jnp.arange(1, tokens.shape[1] + 1, dtype=jnp.uint32)
    mixed = (tokens.astype(jnp.uint32) + 1) * (places * jnp.uint32(2654435761) | 1)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2246822519)
    mixed = mixed ^ (mixed >> 13)
    return jnp.stack([mixed.sum(1, dtype=jnp.uint32), (mixed * (2 * places + 1)).sum(1, dtype=jnp.uint32)], 1)


def _nothing(kind: Kind, rows: Side) -> Found:
    dtype = rows.vectors.dtype
    filled = lambda value: jnp.full(len(rows.number), value, dtype)
    return Found(filled(kind.nothing(dtype)), filled(lowest(dtype)))


def _meet(kind: Kind, found: Found, rows: Side, partners: Side, shared: tuple[jax.Array, jax.Array]) -> Found:
    scale, offset = shared
    logits = scale * jnp.matmul(rows.vectors, partners.vectors.T, precision="highest") + offset
    same = (rows.marks[:, None] == partners.marks[None]).all(2)
    counts = partners.valid[None] & ~same & (rows.number[:, None] != partners.number[None])
    logits = jnp.where(counts, logits, lowest(logits.dtype))
    return Found(kind.join(found.sum, kind.of(logits)), jnp.maximum(found.best, jax.lax.stop_gradient(logits).max(1)))


def _in_blocks(kind: Kind, block: int, found: Found, rows: Side, partners: Side, shared) -> Found:
    """`_meet`, for at most `block` of the rows at a time."""
    count = blocks_of(len(rows.number), block)
    if count == 1:
        return _meet(kind, found, rows, partners, shared)
    scored = jax.checkpoint(lambda part, partners, shared: _meet(kind, *part, partners, shared))
    parts = jax.tree.map(lambda x: _cut(x, 1, count), (found, rows))
    return jax.tree.map(lambda x: _whole(x, 1), jax.lax.map(lambda part: scored(part, partners, shared), parts))


def _cut(x: jax.Array, groups: int, count: int) -> jax.Array:
    """[N, ...] -> [count, N / count, ...], each block with rows of every group."""
    parts = x.reshape(groups, count, -1, *x.shape[1:])
    return parts.swapaxes(0, 1).reshape(count, -1, *x.shape[1:])


def _whole(x: jax.Array, groups: int) -> jax.Array:
    """The inverse of `_cut`: [count, N / count] -> [N]."""
    return x.reshape(x.shape[0], groups, -1).swapaxes(0, 1).reshape(-1)
