"""Token cross-entropy, in chunks of tokens: logits [B, T, V] of a whole row are never in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.records import Mean, Outcome
from pretrainx.models.layers import wide
from pretrainx.parallel.rules import constrain, constrain_groups, row_groups, ways, within_group

# Of a chunk on one device: about so many logits (256 MiB in float32), and tokens enough to keep a matrix unit busy.
CHUNK_LOGITS, CHUNK_TOKENS, FEWEST_CHUNKS = 2**26, 1024, 4
# Each chunk adds a gradient as large as the vocabulary table: fewer tokens than these are not worth one of their own.
WORTHWHILE_TOKENS = 256


@dataclass(frozen=True)
class TokenLoss:
    """How tokens are scored: the section `config.objective.loss`.

    Attributes:
      chunks: into how many pieces a row is cut for its logits; 0 chooses by size.
      z: in training the square of ln(sum exp(logits)) is added so many times, which keeps logits from drifting away
        (Chowdhery et al. 2022, section 5: 1e-4).
      smoothing: in training so much of the target is spread over all tokens (Szegedy et al. 2016, section 7).
    """

    chunks: int = field(default=0, metadata={"min": 0})
    z: float = field(default=0.0, metadata={"min": 0})
    smoothing: float = field(default=0.0, metadata={"min": 0, "below": 1})

    def when(self, train: bool) -> TokenLoss:
        """Itself in training, else the plain log-likelihood."""
        return self if train else dataclasses.replace(self, z=0.0, smoothing=0.0)

    @property
    def plain(self) -> bool:
        return not (self.z or self.smoothing)


def token_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-log softmax(logits)[target] in nats: float32 or wider [B, T] of logits [B, T, V] and targets int32[B, T]."""
    return _scores(logits, targets)[1]


def chunks_for(rows: int, length: int, vocab_size: int) -> int:
    """Into how many chunks the tokens of so many rows on one device are cut: 4 or more where that leaves them worthwhile."""
    tokens = max(CHUNK_TOKENS, CHUNK_LOGITS // vocab_size)
    fewest = min(FEWEST_CHUNKS, rows * length // WORTHWHILE_TOKENS)
    return min(length, max(fewest, -(-rows * length // tokens), 1))


def scored(
    head: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    term: str,
    loss: TokenLoss = TokenLoss(),
) -> Outcome:
    """The weighted sum of -log softmax(head(hidden))[target] as the term `term`, and its sum per row; as metric "accuracy"
    the weighted share of targets whose logit is the largest. With what `loss` adds, which leaves the plain one as metric "nll".

    Args:
      head: [B, t, D] -> logits [B, t, V], token by token; what it closes over is differentiated too.
      hidden: [B, T, D]; targets: int32[B, T]; weights: [B, T].

    The gradient of the sum is made with the sum, chunk by chunk: the backward pass only scales it, and no logits are kept or
    computed twice.
    """
    return judged(head, hidden, targets, weights, term, loss)[0]


def judged(
    head: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    term: str,
    loss: TokenLoss = TokenLoss(),
) -> tuple[Outcome, jax.Array]:
    """(what `scored` returns, hits bool[B, T]): a hit is a target with weight whose logit is the largest (or equal)."""
    (rows, length), chunks = targets.shape, loss.chunks
    pieces = ways("length") if length % ways("length") == 0 else 1  # of the length, each on devices of its own
    if not chunks:
        shape = jax.eval_shape(head, jax.ShapeDtypeStruct((1, 1, hidden.shape[2]), hidden.dtype))
        chunks = chunks_for(rows // row_groups(rows), length // pieces, shape.shape[-1])
    parts = tuple(_divided(x, chunks, pieces) for x in (hidden, targets, weights))
    pure, closed_over = _explicit(head, parts[0][0, 0])
    total, score, nll, hits = _weighted(pure, loss, parts, *closed_over)
    whole = lambda each: _joined(jax.lax.stop_gradient(each), length, pieces)
    # What has no weight is not looked at under a gradient.
    hits = whole(hits) & (weights > 0)
    # `where`, since 0 times a NaN is NaN.
    per_row = lambda each: jnp.where(weights > 0, weights * whole(each), 0).sum(axis=1)
    metrics = {"accuracy": share(hits, weights)}
    if not loss.plain:
        metrics["nll"] = Mean(per_row(nll).sum(dtype=float), weights.sum(dtype=float))
    return Outcome(totals={term: total}, per_row={term: per_row(score)}, metrics=metrics), hits


def share(hits: jax.Array, weights: jax.Array) -> Mean:
    """The weighted share of hits as a metric, summed in float32 or wider, without gradient."""
    weights = jax.lax.stop_gradient(weights)
    return Mean((weights * hits).sum(dtype=float), weights.sum(dtype=float))


def _explicit(head: Callable, example: jax.Array) -> tuple[Callable, list]:
    """(function of x and of all arrays that `head` closes over, these arrays). Traced once, here: interceptors of a wrapper are
    in force now, and later only the program is."""
    with within_group():
        program = jax.make_jaxpr(head)(example)
    return lambda x, *arrays: jax.core.eval_jaxpr(program.jaxpr, arrays, x)[0], program.consts


def outcome(term: str, nll: jax.Array, weights: jax.Array) -> Outcome:
    """The weighted sum of nll [B, T] as one term. `where`, since 0 times a NaN is NaN."""
    rows = jnp.where(weights > 0, weights * nll, 0).sum(axis=tuple(range(1, nll.ndim)))
    return Outcome(totals={term: rows.sum()}, per_row={term: jax.lax.stop_gradient(rows)})


def _divided(x: jax.Array, count: int, pieces: int) -> jax.Array:
    """[B, T, ...] -> [count, groups, B / groups, T / count, ...], each piece of T filled with zeros to a multiple of `count`.

    A piece of the length is what one device has of it, or all: chunk j holds tokens j, j + count, ... of each, so that no token
    changes its place. Groups are the rows that lie together: what is summed over a chunk is summed in each group, and over
    groups once, after the last chunk. (A sum over rows inside the loop would be a collective for each chunk, of a gradient as
    large as the vocabulary table.)
    """
    rows, length, *rest = x.shape
    groups = row_groups(rows)
    kept = [None] * len(rest)
    x = x.reshape(rows, pieces, length // pieces, *rest)
    x = jnp.pad(x, [(0, 0), (0, 0), (0, -x.shape[2] % count)] + [(0, 0)] * len(rest))
    x = constrain(x, "batch", "length", None, *kept)
    x = jnp.moveaxis(x.reshape(groups, rows // groups, pieces, -1, count, *rest), 4, 0)
    x = x.reshape(count, groups, rows // groups, -1, *rest)
    return constrain(x, None, "batch", None, "length", *kept)


def _joined(each: jax.Array, length: int, pieces: int) -> jax.Array:
    """[B, T] of numbers per token [count, groups, B / groups, T / count], the inverse of `_divided`."""
    count, groups, rows, _ = each.shape
    each = jnp.moveaxis(each.reshape(count, groups, rows, pieces, -1), 0, 4)
    return each.reshape(groups * rows, pieces, -1)[:, :, : length // pieces].reshape(groups * rows, length)


def _in_groups(function: Callable, *parts):
    """`function` of each group of the parts [groups, ...]; results [groups, ...]."""
    if parts[0].shape[0] == 1:
        return jax.tree.map(lambda x: x[None], function(*(part[0] for part in parts)))
    return jax.tree.map(constrain_groups, jax.vmap(function)(*parts))


def _scores(logits, targets, loss=TokenLoss()):
    """(score and nll [..., t], hits bool[..., t], exponentials [..., t, V], their sums and the log of these [..., t, 1])

    score = (1 - smoothing) nll + smoothing (log sum - mean logit) + z (log sum)^2
    """
    logits = wide(logits)
    highest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    exponentials = jnp.exp(logits - highest)
    sums = exponentials.sum(-1, keepdims=True)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    log = jnp.log(sums) + highest
    nll = score = log - chosen
    if loss.smoothing:
        average = (logits * _spread_evenly(logits)).sum(-1, keepdims=True)
        score = (1 - loss.smoothing) * nll + loss.smoothing * (log - average)
    if loss.z:
        score = score + loss.z * jnp.square(log)
    return score[..., 0], nll[..., 0], (chosen >= highest)[..., 0], exponentials, sums, log


def _spread_evenly(logits):
    """The probabilities of a uniform draw of the predicted columns: those of padding are masked by very low logits."""
    predicted = logits > jnp.finfo(logits.dtype).min / 4
    return predicted / predicted.sum(-1, keepdims=True)


def _sum_of(nll: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.where(weights > 0, weights * nll, 0).sum()


def _plain(pure, loss, parts, *closed_over):
    def group(hidden, targets, weights):
        score, nll, hits, *_ = _scores(pure(hidden, *closed_over), targets, loss)
        return _sum_of(score, weights), (score, nll, hits)

    def chunk(totals, part):
        new, each = _in_groups(group, *part)
        return totals + new, each

    wider = jnp.promote_types(parts[0].dtype, jnp.float32)
    totals, each = jax.lax.scan(chunk, constrain_groups(jnp.zeros(parts[0].shape[1], wider)), parts)
    return totals.sum(), *each


_weighted = jax.custom_vjp(_plain, nondiff_argnums=(0, 1))


def _forward(pure, loss, parts, *closed_over):
    """Values, and the gradient of the sum for hidden and for those closed-over arrays that are differentiated."""
    hidden, targets, weights = (part.value for part in parts)
    arrays = [each.value for each in closed_over]
    moving = [index for index, each in enumerate(closed_over) if each.perturbed]

    def group(hidden, targets, weights):
        # What has no weight may be NaN, and 0 x NaN would reach the head.
        hidden = jnp.where(weights[..., None] > 0, hidden, 0)

        def logits_of(hidden, moved):
            given = list(arrays)
            for index, array in zip(moving, moved, strict=True):
                given[index] = array
            return pure(hidden, *given)

        logits, pull = jax.vjp(logits_of, hidden, [arrays[index] for index in moving])
        score, nll, hits, exponentials, sums, log = _scores(logits, targets, loss)
        scale = jnp.where(weights > 0, weights, 0)[..., None].astype(sums.dtype)
        hit = jnp.arange(logits.shape[-1]) == targets[..., None]
        slope = scale / sums * (1 + 2 * loss.z * log) if loss.z else scale / sums
        to_logits = exponentials * slope - jnp.where(hit, scale * (1 - loss.smoothing), 0)
        if loss.smoothing:
            to_logits -= scale * loss.smoothing * _spread_evenly(wide(logits))
        to_hidden, to_arrays = pull(to_logits.astype(logits.dtype))
        return (_sum_of(score, weights), to_arrays), (score, nll, hits, to_hidden)

    def chunk(sums, part):
        new, each = _in_groups(group, *part)
        return jax.tree.map(jnp.add, sums, new), each

    groups, wider = hidden.shape[1], jnp.promote_types(hidden.dtype, jnp.float32)
    # Summed in float32 or wider, also where parameters are bfloat16.
    zeros = lambda array: jnp.zeros((groups, *array.shape), jnp.promote_types(array.dtype, jnp.float32))
    start = jnp.zeros(groups, wider), [zeros(arrays[index]) for index in moving]
    sums, (score, nll, hits, to_hidden) = jax.lax.scan(
        chunk, jax.tree.map(constrain_groups, start), (hidden, targets, weights)
    )
    total, gradients = jax.tree.map(lambda x: x.sum(0), sums)
    gradients = {index: x.astype(arrays[index].dtype) for index, x in zip(moving, gradients, strict=True)}
    return (total, score, nll, hits), (to_hidden, gradients, len(arrays))


def _backward(pure, loss, saved, cotangents):
    to_hidden, gradients, count = saved
    by = cotangents[0]
    scaled = lambda gradient: (gradient * by).astype(gradient.dtype)
    to_arrays = (scaled(gradients[index]) if index in gradients else None for index in range(count))
    return (scaled(to_hidden), None, None), *to_arrays


_weighted.defvjp(_forward, _backward, symbolic_zeros=True)
