"""Attention over rows whose length is laid over devices: each device has the queries of its piece, keys come to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.models import kernels, splash
from pretrainx.models.layers import wide
from pretrainx.parallel import sequence
from pretrainx.parallel.rules import in_force, ways

HEADS, TOKENS = ("batch", "length", "act_heads", None), ("batch", "length")
NAMES = {
    **dict.fromkeys(("query", "key", "value"), HEADS),
    **dict.fromkeys(("segments", "key_segments", "seen"), TOKENS),
    "bias": ("batch", "act_heads", "length", None),
}


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool = True,
    window: int = 0,
    scale: float | None = None,
    filled: jax.Array | None = None,
    kernel: str = "auto",
    **masks: jax.Array | None,
) -> jax.Array:
    """What `kernels.attention` computes, with its arguments, also where the rules in force split the length.

    Then queries stay where they are, and no device computes the scores of another's. Keys and values come by one of two
    ways, `config.sharding.context`:
      gather: each device collects all of them, of its heads and rows.
      ring: they travel from device to device, and no device ever holds more than two pieces (Liu et al. 2023).
    Scores with a bias are made by gathering in both: a bias for every pair of tokens is as large as what the ring would save.
    So are those of queries or keys that the devices do not divide: what is not split is whole on each.
    """
    if kernel == "auto":
        kernel = kernels.fitting(query, key, **masks, causal=causal, filled=filled)
    options = {"causal": causal, "window": window, "scale": scale}
    if filled is not None:  # one token at a time: neither split nor worth a kernel
        kernel = "xla" if kernel == "splash" else kernel
        return kernels.attention(query, key, value, **masks, **options, filled=filled, kernel=kernel)
    axes = sequence.over(query.shape[1])
    if not axes and kernel != "splash":
        return kernels.attention(query, key, value, **masks, **options, kernel=kernel)
    arrays = {"query": query, "key": key, "value": value, **masks}
    if arrays.get("key_segments") is None:
        arrays["key_segments"] = arrays.get("segments")
    arrays |= _by_query_heads(query, key, value)
    keys_over = sequence.over(query.shape[1], key.shape[1])
    if keys_over and masks.get("bias") is None and in_force().config.context == "ring":
        return _ring(arrays, keys_over, **options)
    if kernel == "splash":
        return splash.attention(arrays, NAMES, axes, keys_over, **options)
    if kernel == "cudnn":
        raise ConfigError(
            "cuDNN's attention does not take rows whose length is laid over devices",
            where="config.model.attention",
            why=f"{query.shape[1]} tokens over {sequence.pieces(axes)} devices: a piece of the queries meets all keys",
            do="--config.model.attention=auto, or --config.mesh.context=1",
        )
    return _gather(arrays, axes, keys_over, kernel, **options)


def _by_query_heads(query, key, value) -> dict[str, jax.Array]:
    """Keys and values, one for each query head where the devices divide those and not the key heads."""
    heads, shared, split = query.shape[2], key.shape[2], ways("act_heads")
    if shared % split and not heads % split:
        key, value = (jnp.repeat(x, heads // shared, axis=2) for x in (key, value))
    return {"key": key, "value": value}


def _gather(arrays, axes, keys_over, kernel, causal, **options):
    def of_piece(query, **others):
        gather = lambda name: sequence.gathered(others.get(name), keys_over) if keys_over else others.get(name)
        others |= {name: gather(name) for name in ("key", "value", "key_segments", "seen")}
        first = sequence.own(axes) * query.shape[1] if causal else None
        return kernels.attention(query, **others, causal=causal, filled=first, kernel=kernel, **options)

    return sequence.on_each_device(of_piece, arrays, NAMES, "query")


@dataclass(frozen=True)
class Course:
    """What is the same on all devices of a ring.

    Attributes:
      axes, count: the mesh axes that it goes along, and its devices; hops: how far keys travel.
      causal, window, scale: as `kernels.attention` has them.
      halves: rows lie in the balanced layout of `sequence.balanced`.
    """

    axes: tuple[str, ...]
    count: int
    hops: int
    causal: bool
    window: int
    scale: float
    halves: bool

    def starts(self, device: jax.Array, size: int) -> tuple[jax.Array, ...]:
        """int32[]: the positions at which the parts of a device begin, each of `size` tokens."""
        numbers = sequence.numbers_of_halves(device, self.count) if self.halves else (device,)
        return tuple(number * size for number in numbers)


def _ring(arrays, axes, causal, window, scale):
    """Causal rows are balanced over devices first, so that each skips the same half of all scores. Rows with a window stay
    as they are, and keys travel only as far as it reaches; so do those with a prefix, which skip but wait for the last."""
    query, count = arrays["query"], sequence.pieces(axes)
    size, scale = query.shape[1] // count, query.shape[3] ** -0.5 if scale is None else scale
    whole = not causal or arrays.get("seen") is not None or query.shape[1] != arrays["key"].shape[1]
    halves = not whole and not window and size % 2 == 0
    hops = count - 1 if whole or not window else min(count - 1, -(-(window - 1) // size))
    course = Course(axes, count, hops, causal, window if causal else 0, scale, halves)

    def of_piece(query, key, value, segments=None, key_segments=None, seen=None):
        part = partial(sequence.balanced, axes=axes, count=count) if halves else lambda x: (x,)
        parts = lambda x: None if x is None else part(x)
        batch, _, heads, width = query.shape
        shared = key.shape[2]
        # Heads first, those that share a key head together: [B, N, H / N, T, K]
        grouped = lambda x: x.reshape(batch, -1, shared, heads // shared, width).transpose(0, 2, 3, 1, 4)
        first = lambda x: x.swapaxes(1, 2)
        found = _pass_by(
            course,
            tuple(map(grouped, part(query))),
            (tuple(map(first, part(key))), tuple(map(first, part(value)))),
            parts(segments),
            (parts(key_segments), parts(seen)),
        )
        rows = lambda x: x.transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, width)
        found = tuple(map(rows, found))
        return sequence.neighbouring(found, axes, count) if halves else found[0]

    return sequence.on_each_device(of_piece, {**arrays, "bias": None}, NAMES, "query")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pass_by(course: Course, query, keys, segments, about):
    """Attention of this device's queries to all keys of the ring, in parts (one, or two halves).

    query: [B, N, G, t, K] each; keys: (keys, values), [B, N, s, K] each; segments: int32[B, t] each, or None; about: (the
    keys' segments int32[B, s], seen bool[B, s]), each or None. Only the logarithm of each query's sum is kept for the
    gradient: scores are computed again, while keys go around once more and take their gradients home.
    """
    return _pass_by_forward(course, query, keys, segments, about)[0]


def _pairs(course, query, keys, segments, about, hop, visit, state):
    """`state` after `visit(state, i, j, mask)` for the query parts i and key parts j of which some may see each other."""
    device = sequence.own(course.axes)
    times, sources = query[0].shape[3], keys[0][0].shape[2]
    places = course.starts(device, times), course.starts((device - hop) % course.count, sources)
    of = lambda parts, index: None if parts is None else parts[index]
    for i, first in enumerate(places[0]):
        for j, start in enumerate(places[1]):
            queries, theirs = first + jnp.arange(times), start + jnp.arange(sources)
            seen = of(about[1], j)
            masks = of(segments, i), of(about[0], j), seen
            meet = lambda state, i=i, j=j, asked=(queries, theirs, course.causal, course.window, *masks): visit(
                state, i, j, kernels.visible(*asked)
            )
            if not course.causal:
                state = meet(state)
                continue
            near = queries[-1] >= theirs[0]
            if course.window:
                near &= queries[0] - theirs[-1] < course.window
            if seen is not None:
                near |= seen.any()
            state = jax.lax.cond(near, meet, lambda state: state, state)
    return state


def _scores(course, query, key, mask):
    """float32 or wider [B, N, G, t, s]; finite where masked: a query that sees nothing yet is wiped out by what it sees."""
    scores = course.scale * _product("bngtk,bnsk->bngts", query, key)
    if mask is None:
        return scores
    return jnp.where(mask[:, :, None] if mask.ndim == 4 else mask, scores, jnp.finfo(scores.dtype).min / 2)


def _product(form, left, right):
    return jnp.einsum(form, left, right, preferred_element_type=jnp.promote_types(right.dtype, jnp.float32))


def _put(parts: tuple, index: int, *new) -> tuple:
    return tuple(each[:index] + (x,) + each[index + 1 :] for each, x in zip(parts, new, strict=True))


def _pass_by_forward(course, query, keys, segments, about):
    def meet(state, block, hop):
        (keys, about) = block

        def visit(state, i, j, mask):
            highest, sums, found = (each[i] for each in state)
            scores, value = _scores(course, query[i], keys[0][j], mask), keys[1][j]
            new = jnp.maximum(highest, scores.max(-1))
            weights, kept = jnp.exp(scores - new[..., None]), jnp.exp(highest - new)
            added = _product("bngts,bnsk->bngtk", weights.astype(value.dtype), value)
            return _put(state, i, new, sums * kept + weights.sum(-1), found * kept[..., None] + added)

        return _pairs(course, query, keys, segments, about, hop, visit, state)

    zeros = tuple(jnp.zeros_like(wide(part)) for part in query)
    least = tuple(jnp.full(x.shape[:-1], jnp.finfo(x.dtype).min / 2, x.dtype) for x in zeros)
    start = (least, tuple(x[..., 0] for x in zeros), zeros)
    highest, sums, found = sequence.around(meet, start, (keys, about), course.axes, course.count, course.hops)
    found = tuple((x / y[..., None]).astype(part.dtype) for x, y, part in zip(found, sums, query, strict=True))
    logs = tuple(x + jnp.log(y) for x, y in zip(highest, sums, strict=True))
    return found, (query, keys, segments, about, found, logs)


def _pass_by_backward(course, saved, gradient):
    query, keys, segments, about, found, logs = saved
    moved = tuple((wide(x) * wide(y)).sum(-1, keepdims=True) for x, y in zip(gradient, found, strict=True))

    def meet(state, block, hop):
        to_query, *to_keys = state
        (keys, about) = block

        def visit(state, i, j, mask):
            to_query, to_key, to_value = state[0][i], state[1][j], state[2][j]
            key, value, slope = keys[0][j], keys[1][j], gradient[i]
            weights = jnp.exp(_scores(course, query[i], key, mask) - logs[i][..., None])
            to_scores = course.scale * weights * (_product("bngtk,bnsk->bngts", slope, value) - moved[i])
            weights, to_scores = weights.astype(value.dtype), to_scores.astype(key.dtype)
            to_query += _product("bngts,bnsk->bngtk", to_scores, key)
            to_key += _product("bngts,bngtk->bnsk", to_scores, query[i])
            to_value += _product("bngts,bngtk->bnsk", weights, slope)
            return (*_put(state[:1], i, to_query), *_put(state[1:], j, to_key, to_value))

        # The gradients of a block follow one hop behind it, while this device's share is computed.
        arrived = sequence.moved(tuple(to_keys), course.axes, course.count, 1)
        none = jax.tree.map(jnp.zeros_like, arrived)
        to_query, *share = _pairs(course, query, keys, segments, about, hop, visit, (to_query, *none))
        return (to_query, *jax.tree.map(jnp.add, arrived, tuple(share)))

    zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros_like(wide(x)), tree)
    state = zeros(query), *zeros(keys)
    to_query, *to_keys = sequence.around(meet, state, (keys, about), course.axes, course.count, course.hops)
    to_keys = sequence.moved(tuple(to_keys), course.axes, course.count, -course.hops)
    narrow = lambda tree, like: jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)
    return narrow(to_query, query), narrow(to_keys, keys), None, None


_pass_by.defvjp(_pass_by_forward, _pass_by_backward)
