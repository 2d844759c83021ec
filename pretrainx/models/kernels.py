"""Attention and matrix products by platform: what a CPU, a GPU or a TPU is fast at lies here, behind one choice.

The platform is that of the mesh whose rules are bound, so that a program compiled on one machine for another is right too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from pretrainx.parallel.rules import platform

ATTENTION = ("auto", "blocks", "xla", "cudnn")


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    window: int = 0,
    segments: jax.Array | None = None,
    filled: jax.Array | None = None,
    kernel: str = "auto",
) -> jax.Array:
    """Causal softmax(query key^T / sqrt(K)) value.

    Args:
      query: [B, T, H, K]; key, value: [B, S, N, K], N dividing H: consecutive query heads share one (Ainslie et al. 2023).
      window: a query sees itself and the window - 1 positions before it; 0 is no limit.
      segments: int32[B, T], equal where tokens may see each other; only with S = T.
      filled: int32[], decoding: query t stands at position filled + t of the S cached ones; None where S = T.
      kernel: one of ATTENTION; "auto" chooses by platform and dtype.
    Returns [B, T, H, K]. Scores and softmax are float32 or wider.
    """
    kernel = _attention_kernel(query.dtype, filled is not None) if kernel == "auto" else kernel
    if kernel == "blocks":
        return _blocks(query, key, value, window, segments, filled)
    local = (window - 1, 0) if window else None
    if segments is None and filled is None:
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=True, local_window_size=local, implementation=kernel
        )
    times, sources = query.shape[1], key.shape[1]
    mask = allowed(jnp.arange(times) + (0 if filled is None else filled), jnp.arange(sources), window)[None, None]
    if segments is not None:
        mask = mask & same(segments, segments)[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=kernel)


def _attention_kernel(dtype, decoding: bool) -> str:
    """cuDNN's fused kernel takes 16-bit inputs only; `jax.nn.dot_product_attention` has a float32 softmax even for float64,
    which would hide errors below 1e-7 from the equality tests; on a CPU blocks are faster (benchmarks/lm_step.py)."""
    kind, _ = platform()
    if kind == "cpu" or dtype == jnp.float64:
        return "blocks"
    return "cudnn" if kind == "gpu" and dtype.itemsize == 2 and not decoding else "xla"


def allowed(queries: jax.Array, keys: jax.Array, window: int) -> jax.Array:
    """bool[T, S]: whether the query at a position may see the key at another."""
    distance = queries[:, None] - keys[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def same(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """bool[B, T, S] of segments [B, T] and [B, S]."""
    return queries[:, :, None] == keys[:, None, :]


def _blocks(query, key, value, window, segments, filled):
    """Heads first, and a few blocks of queries that only look at the keys they may see: a third of the scores is skipped."""
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    length = query.shape[2]
    count = 4 if filled is None and length >= 128 and length % 4 == 0 else 1
    found = []
    for first in range(0, length, length // count):
        last = first + length // count
        queries = jnp.arange(first, last) + (0 if filled is None else filled)
        start = max(0, first - window + 1) if window and filled is None else 0
        stop = last if filled is None else key.shape[2]
        mask = allowed(queries, jnp.arange(start, stop), window)
        if segments is not None:
            mask = mask & same(segments[:, first:last], segments[:, start:stop])[:, None]
        found.append(_softmax(query[:, :, first:last], key[:, :, start:stop], value[:, :, start:stop], mask))
    return (found[0] if count == 1 else jnp.concatenate(found, axis=2)).swapaxes(1, 2)


@jax.custom_vjp
def _softmax(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """query [B, H, T, K], key and value [B, N, S, K], mask bool[T, S] or [B, 1, T, S] -> [B, H, T, K].

    Of the scores only the probabilities are kept for the gradient; autodiff keeps three arrays of their size.
    """
    return _softmax_forward(query, key, value, mask)[0]


def _grouped(x: jax.Array, shared: int) -> jax.Array:
    """[B, H, T, ...] -> [B, N, H / N x T, ...]: the queries that share a key head are one product."""
    batch, heads, times, size = x.shape
    return x.reshape(batch, shared, heads // shared * times, size)


def _softmax_forward(query, key, value, mask):
    batch, heads, times, size = query.shape
    grouped = _grouped(query, key.shape[1])
    wider = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bntk,bnsk->bnts", grouped, key, preferred_element_type=wider) * size**-0.5
    # Finite: a row with nothing allowed is uniform, not NaN.
    scores = jnp.where(mask, scores.reshape(batch, heads, times, -1), jnp.finfo(wider).min / 2)
    weights = _grouped(jax.nn.softmax(scores, axis=-1).astype(value.dtype), key.shape[1])
    found = jnp.einsum("bnts,bnsk->bntk", weights, value).reshape(query.shape)
    return found, (grouped, key, value, weights)


def _softmax_backward(saved, gradient):
    query, key, value, weights = saved
    shape, gradient = gradient.shape, _grouped(gradient, key.shape[1])
    wider = jnp.promote_types(query.dtype, jnp.float32)
    to_value = jnp.einsum("bnts,bntk->bnsk", weights, gradient)
    to_weights = jnp.einsum("bntk,bnsk->bnts", gradient, value, preferred_element_type=wider)
    moved = (to_weights * weights).sum(-1, keepdims=True)
    # Where the mask is False the weight is 0, or all of a row's are equal and its loss has weight 0.
    to_scores = (weights * (to_weights - moved) * query.shape[-1] ** -0.5).astype(query.dtype)
    to_query = jnp.einsum("bnts,bnsk->bntk", to_scores, key).reshape(shape)
    return to_query, jnp.einsum("bnts,bntk->bnsk", to_scores, query), to_value, None


_softmax.defvjp(_softmax_forward, _softmax_backward)


def matmul(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    """x [..., I] times kernel [I, O], operands in `dtype`, accumulated and returned in float32 or wider: [..., O]."""
    if jnp.dtype(dtype) == jnp.bfloat16 and platform() == ("cpu", 1):
        rows = x.astype(dtype).reshape(-1, x.shape[-1])
        return _bfloat16(rows, kernel).reshape(*x.shape[:-1], -1)
    wider = jnp.promote_types(dtype, jnp.float32)
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=wider)


@jax.custom_vjp
def _bfloat16(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A CPU multiplies bfloat16 fast only as bfloat16 x bfloat16 -> float32 of row-major operands; autodiff's products are
    neither, so both gradients are spelt out."""
    return _product(x, kernel)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _transposed(x: jax.Array) -> jax.Array:
    """x.T in memory of its own: XLA folds a mere transpose back into the product, and leaves the fast path."""
    return with_layout_constraint(x.T, Layout((0, 1)))


def _bfloat16_forward(x, kernel):
    return _product(x, kernel), (x, kernel)


def _bfloat16_backward(saved, gradient):
    x, kernel = saved
    gradient = gradient.astype(jnp.bfloat16)
    to_x = _product(gradient, _transposed(kernel.astype(jnp.bfloat16)))
    # Pinned, since a transpose of this result would make a product that compiles and cannot run.
    to_kernel = with_layout_constraint(_product(_transposed(x), gradient), Layout((0, 1)))
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


_bfloat16.defvjp(_bfloat16_forward, _bfloat16_backward)
