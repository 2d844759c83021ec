"""Attention and matrix products by platform: what a CPU, a GPU or a TPU is fast at lies here, behind one choice.

The platform is that of the mesh whose rules are bound, so that a program compiled on one machine for another is right too.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from pretrainx.models import splash, streamed
from pretrainx.parallel.machines import is_described
from pretrainx.parallel.rules import device, ways

ATTENTION = ("auto", "blocks", "xla", "cudnn", "splash")


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool = True,
    window: int = 0,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    seen: jax.Array | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
    filled: jax.Array | None = None,
    kernel: str = "auto",
) -> jax.Array:
    """softmax(scale query key^T + bias) value over the keys that a query may see.

    Args:
      query: [B, T, H, K]; key, value: [B, S, N, K], N dividing H: consecutive query heads share one (Ainslie et al. 2023).
      causal: a query sees its own position and those before it; otherwise all.
      window: a causal query sees itself and the window - 1 positions before it; 0 is no limit.
      segments: int32[B, T], equal where tokens may see each other; key_segments: int32[B, S], the keys' where S is another
        sequence, or a cache.
      seen: bool[B, S], keys that causality does not hide: a prefix that is read as a whole.
      bias: [G, H, T, S], added to the scores; G groups of neighbouring rows, such as `row_groups` lays apart, or 1.
      scale: None is 1 / sqrt(K).
      filled: int32[], decoding: query t stands at position filled + t of the S cached ones; None where S = T.
      kernel: one of ATTENTION but for "splash", which needs `context.attention`; "auto" chooses by platform and dtype.
    Returns [B, T, H, K]. Scores and softmax are float32 or wider.
    """
    if kernel == "auto":
        kernel = fitting(query, key, segments, key_segments, seen, bias, causal, filled)
        kernel = "xla" if kernel == "splash" else kernel
    if kernel == "blocks":
        return _blocks(query, key, value, causal, window, segments, key_segments, seen, bias, scale, filled)
    if kernel == "cudnn" and is_described(device()[0]):  # its libraries are asked for sizes, and need not be here
        of_keys, at = segments if key_segments is None else key_segments, jnp.arange(key.shape[1])
        of_queries = lambda times: None if segments is None else segments[:, times]
        mask_of = lambda times: visible(times, at, causal, window, of_queries(times), of_keys, seen)
        return streamed.attention(query, key, value, mask_of, scale, causal and seen is None)
    if bias is not None:  # [G, H, T, S] -> [B, H, T, S], a broadcast that is fused
        groups, rows = bias.shape[0], query.shape[0]
        bias = jnp.broadcast_to(bias[:, None], (groups, rows // groups, *bias.shape[1:])).reshape(rows, *bias.shape[1:])
    call = partial(jax.nn.dot_product_attention, query, key, value, bias, scale=scale, implementation=kernel)
    if segments is None and filled is None and seen is None:
        return call(is_causal=causal, local_window_size=(window - 1, 0) if window else None)
    times, sources = jnp.arange(query.shape[1]) + (0 if filled is None else filled), jnp.arange(key.shape[1])
    key_segments = segments if key_segments is None else key_segments
    return call(mask=visible(times, sources, causal, window, segments, key_segments, seen))


def fitting(query, key, segments=None, key_segments=None, seen=None, bias=None, causal=True, filled=None) -> str:
    """What `choose` chooses for these arguments of `attention`."""
    length = math.gcd(query.shape[1], key.shape[1])
    masked = "prefix" if seen is not None else "segments" if segments is not None else ""
    plain = filled is None and bias is None and (causal or key_segments is segments or key_segments is None)
    return choose(_hardware(), query.dtype, query.shape[3], length, key.shape[2], masked, not plain)


def choose(
    hardware: str, dtype, head_dim: int, length: int, shared: int, masked: str = "", special: bool = False
) -> str:
    """The kernel that is fast and right there; `hardware` is "cpu", "cuda" (with tensor cores for bfloat16), "tpu" or another.

    Args:
      length: the largest number that divides those of queries and of keys.
      shared: heads of keys; masked: "segments" or "prefix", or "" where only positions decide.
      special: with a cache, a bias, or keys of another sequence with padding.

    `jax.nn.dot_product_attention` has a float32 softmax even for float64, which would hide errors below 1e-7 from the equality
    tests; on a CPU blocks are faster (benchmarks/lm_step.py). cuDNN takes what `fits_cudnn` says, a mask only for even
    lengths, no length that is laid over devices, as many devices for key heads as for queries, and nothing `special`. Splash
    takes what `splash.fits` says, segments but no prefix, and nothing `special`.
    """
    if hardware == "cpu" or dtype == jnp.float64:
        return "blocks"
    if special:
        return "xla"
    if hardware == "tpu":
        takes = masked != "prefix" and not length % ways("length")
        return "splash" if takes and splash.fits(dtype, head_dim, length // ways("length")) else "xla"
    whole = ways("length") == 1 and shared % ways("act_heads") == 0 and not (masked and length % 2)
    return "cudnn" if hardware == "cuda" and whole and fits_cudnn(dtype, head_dim) else "xla"


def fits_cudnn(dtype, head_dim: int) -> bool:
    """Whether cuDNN's fused attention takes heads of this width and dtype, on any GPU that it runs on."""
    return jnp.dtype(dtype).itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128


def _hardware() -> str:
    one, _ = device()
    if one.platform == "gpu" and "NVIDIA" in one.device_kind and float(one.compute_capability) >= 8.0:
        return "cuda"
    return one.platform


def allowed(queries: jax.Array, keys: jax.Array, window: int) -> jax.Array:
    """bool[T, S]: whether the query at a position may see the key at another."""
    distance = queries[:, None] - keys[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def visible(
    queries: jax.Array,
    keys: jax.Array,
    causal: bool,
    window: int = 0,
    segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
    seen: jax.Array | None = None,
) -> jax.Array | None:
    """bool[T, S] or [B, 1, T, S]: which keys the queries at these positions see; None where that is all of them."""
    mask = allowed(queries, keys, window) if causal else None
    if causal and seen is not None:
        mask = mask | seen[:, None, None, :]
    if segments is None:
        return mask
    together = same(segments, key_segments)[:, None]
    return together if mask is None else mask & together


def same(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """bool[B, T, S] of segments [B, T] and [B, S]."""
    return queries[:, :, None] == keys[:, None, :]


def _blocks(query, key, value, causal, window, segments, key_segments, seen, bias, scale, filled):
    """Heads first, and a few blocks of causal queries that look only where they may: a third of the scores is skipped.

    In float32 or wider: a CPU is slower at these small products in bfloat16.
    """
    dtype, wider = query.dtype, jnp.promote_types(query.dtype, jnp.float32)
    query, key, value = (x.astype(wider).swapaxes(1, 2) for x in (query, key, value))
    length = query.shape[2]
    skipping = causal and filled is None and seen is None
    count = 4 if skipping and length >= 128 and length % 4 == 0 else 1
    key_segments = segments if key_segments is None else key_segments
    cut = lambda x, first, last: None if x is None else x[:, first:last]
    found = []
    for first in range(0, length, length // count):
        last = first + length // count
        queries = jnp.arange(first, last) + (0 if filled is None else filled)
        start = max(0, first - window + 1) if window and skipping else 0
        stop = last if skipping else key.shape[2]
        keys, of_queries, of_keys = jnp.arange(start, stop), cut(segments, first, last), cut(key_segments, start, stop)
        mask = visible(queries, keys, causal, window, of_queries, of_keys, seen)
        added = None if bias is None else bias[:, :, first:last, start:stop]
        parts = query[:, :, first:last], key[:, :, start:stop], value[:, :, start:stop]
        found.append(_softmax(*parts, mask, added, scale))
    return (found[0] if count == 1 else jnp.concatenate(found, axis=2)).swapaxes(1, 2).astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _softmax(query, key, value, mask=None, bias=None, scale=None) -> jax.Array:
    """query [B, H, T, K], key and value [B, N, S, K], mask bool[T, S] or [B, 1, T, S], bias [G, H, T, S] -> [B, H, T, K].

    Of the scores only the probabilities are kept for the gradient; autodiff keeps three arrays of their size.
    """
    return _softmax_forward(query, key, value, mask, bias, scale)[0]


def _grouped(x: jax.Array, shared: int) -> jax.Array:
    """[B, H, T, ...] -> [B, N, H / N x T, ...]: the queries that share a key head are one product."""
    batch, heads, times, size = x.shape
    return x.reshape(batch, shared, heads // shared * times, size)


def _apart(scores: jax.Array, groups: int) -> jax.Array:
    """[B, H, T, S] -> [G, B / G, H, T, S]"""
    return scores.reshape(groups, -1, *scores.shape[1:])


def _over_rows(scores: jax.Array) -> jax.Array:
    """[G, B / G, H, T, S] summed over rows: [G, H, T, S]. As a product with ones: XLA's CPU reduces a leading axis sixty times
    more slowly, and would add half to the time of an attention's gradient."""
    groups, rows, *rest = scores.shape
    return jnp.einsum("gb,gbx->gx", jnp.ones((groups, rows), scores.dtype), scores.reshape(groups, rows, -1)).reshape(
        groups, *rest
    )


def _softmax_forward(query, key, value, mask, bias, scale):
    batch, heads, times, size = query.shape
    grouped = _grouped(query, key.shape[1])
    scores = jnp.einsum("bntk,bnsk->bnts", grouped, key).reshape(batch, heads, times, -1)
    scores = scores * (size**-0.5 if scale is None else scale)
    if bias is not None:
        scores = (_apart(scores, bias.shape[0]) + bias[:, None]).reshape(scores.shape)
    if mask is not None:
        # Finite: a row with nothing allowed is uniform, not NaN.
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min / 2)
    weights = _grouped(jax.nn.softmax(scores, axis=-1), key.shape[1])
    found = jnp.einsum("bnts,bnsk->bntk", weights, value).reshape(query.shape)
    return found, (grouped, key, value, weights, bias)


def _softmax_backward(scale, saved, gradient):
    query, key, value, weights, bias = saved
    shape, gradient = gradient.shape, _grouped(gradient, key.shape[1])
    to_value = jnp.einsum("bnts,bntk->bnsk", weights, gradient)
    to_weights = jnp.einsum("bntk,bnsk->bnts", gradient, value)
    moved = (to_weights * weights).sum(-1, keepdims=True)
    # Where the mask is False the weight is 0, or all of a row's are equal and its loss has weight 0.
    to_scores = weights * (to_weights - moved)
    to_bias = None
    if bias is not None:
        to_bias = _over_rows(_apart(to_scores.reshape(*shape[:3], -1), bias.shape[0])).astype(bias.dtype)
    to_scores = to_scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    to_query = jnp.einsum("bnts,bnsk->bntk", to_scores, key).reshape(shape)
    return to_query, jnp.einsum("bnts,bntk->bnsk", to_scores, query), to_value, None, to_bias


_softmax.defvjp(_softmax_forward, _softmax_backward)


def matmul(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """x [..., I] times kernel [I, O], operands in `dtype`, accumulated and returned in float32 or wider: [..., O]."""
    x = x.astype(dtype)
    one, count = device()
    alone = one.platform == "cpu" and count == 1
    # Of rank 2: a CPU is half as fast at a product of rank 3, whose neighbours are not fused.
    rows = x.reshape(-1, x.shape[-1]) if alone else x
    if x.dtype.itemsize == 2:
        y = _narrow(rows, kernel, alone)
    else:
        y = jnp.matmul(rows, kernel.astype(dtype), preferred_element_type=jnp.promote_types(dtype, jnp.float32))
    return y.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow(x: jax.Array, kernel: jax.Array, pinned: bool) -> jax.Array:
    """16-bit x [..., I] times kernel [I, O], rounded to the same: float32[..., O].

    The operands of both gradients are 16-bit too: autodiff would multiply the float32 cotangent by operands made wider.
    pinned: transposes have memory of their own. A CPU multiplies bfloat16 fast only where operands are row-major, and XLA folds
    a mere transpose back into the product.
    """
    return _times(x, kernel.astype(x.dtype))


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _narrow_forward(x, kernel, pinned):
    return _times(x, kernel.astype(x.dtype)), (x, kernel)


def _narrow_backward(pinned, saved, gradient):
    x, kernel = saved
    gradient, weights = gradient.astype(x.dtype), kernel.astype(x.dtype)
    if pinned:
        row_major = lambda array: with_layout_constraint(array, Layout((0, 1)))
        to_x = _times(gradient, row_major(weights.T))
        # The result is pinned, since a transpose of it would make a product that compiles and cannot run.
        to_kernel = row_major(_times(row_major(x.T), gradient))
    else:
        kept = tuple(range(x.ndim - 1))
        to_x = _times(gradient, weights.T)
        to_kernel = jnp.tensordot(x, gradient, (kept, kept), preferred_element_type=jnp.float32)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


_narrow.defvjp(_narrow_forward, _narrow_backward)
