"""Beam search: the likeliest whole sequence that can be found by keeping a few beginnings at each token."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core import paths
from pretrainx.objectives.objective import Objective
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames=("rows", "beams", "length"))
def _searched(objective: Objective, rules: Rules, params, extras, first, end, power, source, *, rows, beams, length):
    """int32[rows, length]: the best of `beams` sequences of each row, `first` included, ended and filled up with `end`."""
    with rules.bound():
        # What is read first is read once for all beams of a row.
        cache = objective.cache(params, extras, rows, length, source)
        cache = reordered(cache, jnp.repeat(jnp.arange(rows), beams))
        tokens = jnp.full((rows, beams, length), end, jnp.int32).at[:, :, 0].set(first)
        # At first all beams of a row are alike: only one of them may go on.
        scores = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf) + jnp.zeros((rows, 1), jnp.float32)

        def extend(carry, position):
            tokens, scores, ended, sizes, cache = carry
            last = jax.lax.dynamic_index_in_dim(tokens, position - 1, 2, keepdims=False)
            logits, cache = objective.decode(params, extras, last.reshape(-1, 1), cache)
            found = jax.nn.log_softmax(logits[:, -1].astype(jnp.float32)).reshape(rows, beams, -1)
            vocabulary = found.shape[-1]
            # What has ended goes on as itself, by `end` alone and for nothing.
            only_end = jnp.where(jnp.arange(vocabulary) == end, 0.0, -jnp.inf)
            totals = scores[..., None] + jnp.where(ended[..., None], only_end, found)
            scores, best = jax.lax.top_k(totals.reshape(rows, -1), beams)
            parent, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)
            pick = lambda x: jnp.take_along_axis(x, parent.reshape(rows, beams, *[1] * (x.ndim - 2)), 1)
            tokens, ended, sizes = pick(tokens), pick(ended), pick(sizes)
            tokens = tokens.at[:, :, position].set(token)
            sizes = jnp.where(ended, sizes, sizes + 1)
            flat = (jnp.arange(rows)[:, None] * beams + parent).reshape(-1)
            return (tokens, scores, ended | (token == end), sizes, reordered(cache, flat)), None

        start = tokens, scores, jnp.zeros((rows, beams), bool), jnp.zeros((rows, beams), jnp.int32), cache
        (tokens, scores, _, sizes, _), _ = jax.lax.scan(extend, start, jnp.arange(1, length))
        best = jnp.argmax(scores / jnp.maximum(sizes, 1).astype(jnp.float32) ** power, axis=1)
        return constrain(jnp.take_along_axis(tokens, best[:, None, None], 1)[:, 0], None, None)


def search(
    objective: Objective,
    rules: Rules,
    params: paths.Tree,
    extras: paths.Tree,
    first: int,
    max_tokens: int,
    beams: int,
    end: int,
    source: dict[str, Any],
    power: float = 0.0,
) -> list[np.ndarray]:
    """For each row of `source` ({name: [B, ...]}, what is read first) the ids behind `first`, at most `max_tokens`, without
    `end`: the sequence of the highest log-probability divided by its length to the `power`, among those that `beams` find."""
    rows = len(jax.tree.leaves(source)[0])
    shared = objective, rules, params, extras, np.int32(first), np.int32(end), np.float32(power), source
    found = np.asarray(distributed.settled(_searched(*shared, rows=rows, beams=beams, length=max_tokens + 1)))[:, 1:]
    ends = [np.flatnonzero(row == end) for row in found]
    return [row[: at[0]] if len(at) else row for row, at in zip(found, ends, strict=True)]


def reordered(cache: Any, rows: jax.Array) -> Any:
    """A cache whose row b is what row rows[b] was: rows are the second axis of keys and values [L, B, S, N, K], the first of
    what is of a source [B, S]; counts of tokens are equal for all."""

    def moved(leaf: jax.Array) -> jax.Array:
        axis = {5: 1, 2: 0}.get(leaf.ndim)
        return leaf if axis is None else jnp.take(leaf, rows, axis)

    return jax.tree.map(moved, cache)
