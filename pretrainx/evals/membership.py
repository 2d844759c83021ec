"""Membership inference: whether a model tells that it was trained on a row (Shokri et al. 2017; Carlini et al. 2022).

All scores are higher for rows that look like members.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from pretrainx.adapt.preserving import predictions
from pretrainx.adapt.wrapper import innermost
from pretrainx.core import random
from pretrainx.core.errors import ConfigError
from pretrainx.evals.linear_probe import logistic
from pretrainx.models.layers import wide
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.parallel.rules import Rules

BUCKETS, FOLDS, FALSE_POSITIVES = 256, 5, 0.01
LOWEST = -1e4  # of log-probabilities: ids that are masked have no more to say
FEW = 16  # shadow runs, below which one variance is estimated for all rows (Carlini et al. 2022, section VI-A)


@dataclass(frozen=True)
class MembershipConfig:
    """Attributes:
    rows: members, and as many others; fewer where a split has fewer.
    lowest: K of Min-K%: the share of a row's tokens, its least likely, that are averaged.
    reference: workdir of a run of the same vocabulary or pictures: its loss is taken off, as how hard a row is.
    shadows: workdirs of runs of the same task, each trained on some of the rows, for LiRA; of labelled pictures only.
    """

    rows: int = field(default=512, metadata={"min": 10})
    lowest: float = field(default=0.2, metadata={"above": 0, "max": 1})
    reference: str = ""
    shadows: tuple[str, ...] = ()


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """P(a member's score is higher) + P(they are equal) / 2, by ranks."""
    ranks = stats.rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


def true_positive_rate(members: np.ndarray, others: np.ndarray, rate: float = FALSE_POSITIVES) -> float:
    """The share of members above the lowest threshold that at most `rate` of the others are above."""
    allowed = int(rate * len(others))
    return float((members > np.sort(others)[::-1][allowed]).mean())


@functools.partial(jax.jit, static_argnums=(0, 1))
def row_losses(objective: Objective, rules: Rules, params, extras, batch: Batch, key: jax.Array):
    """float[B]: each row's mean of the objective's first term."""
    with rules.bound():
        keys, name = objective.row_keys(key, batch), objective.terms[0].name
        observation = objective.observe_rows(keys, batch, 0)
        outcome = objective.encode(params, extras, observation, keys, 0, train=False)
        if name not in outcome.per_row:
            raise ConfigError(
                "rows have no loss of their own",
                where="--evals=membership",
                why=f"{type(innermost(objective)).__name__} compares them with each other",
                do="leave 'membership' out",
            )
        weights = observation.weights[name].reshape(len(outcome.per_row[name]), -1).sum(1)
        return outcome.per_row[name] / jnp.where(weights > 0, weights, 1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def token_scores(objective: Objective, rules: Rules, params, extras, batch: Batch, key: jax.Array):
    """(log p(x_t) float[B, T], its mean and standard deviation under p, targets int[B, T], weights [B, T])"""
    with rules.bound():
        observation = objective.observe_rows(objective.row_keys(key, batch), batch, 0)
        logits, targets, weights = predictions(objective, params, extras, observation, "--evals=membership")
        log = jnp.maximum(jax.nn.log_softmax(wide(logits)), LOWEST)
        chosen = jnp.take_along_axis(log, targets[..., None], -1)[..., 0]
        mean = (jnp.exp(log) * log).sum(-1)
        deviation = jnp.sqrt(jnp.maximum((jnp.exp(log) * log**2).sum(-1) - mean**2, 0))
        return chosen, mean, deviation, targets, weights


@functools.partial(jax.jit, static_argnums=(0, 1))
def confidences(objective: Objective, rules: Rules, params, extras, batch: Batch, key: jax.Array) -> jax.Array:
    """float[B]: ln(p / (1 - p)) of each label, as its logit - logsumexp of the others (Carlini et al. 2022, section VI-A)."""
    with rules.bound():
        observation = objective.observe_rows(objective.row_keys(key, batch), batch, 0)
        logits, labels, _ = predictions(objective, params, extras, observation, "config.evals.membership.shadows")
        own = jnp.arange(logits.shape[-1]) == labels[:, None]
        others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, wide(logits)), axis=-1)
        return jnp.where(own, wide(logits), 0).sum(-1) - others


def over(
    function: Callable, objective: Objective, rules: Rules, params, extras, batches: Iterable[Batch], seed: int
) -> Any:
    """What `function` gives of the batches' valid rows, joined, in float64 on the host. Draws are of (seed, batch index)."""
    found = []
    for index, batch in enumerate(batches):
        values = jax.device_get(
            function(objective, rules, params, extras, batch, random.stream(seed, random.EVALUATE, index))
        )
        valid = np.asarray(batch["valid"])
        found.append(jax.tree.map(lambda x, valid=valid: np.asarray(x)[valid], values))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def lowest_mean(scores: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """float64[B]: the mean of the lowest `share` of each row's scores [B, T] that have weight [B, T], of one at least."""
    ordered = np.sort(np.where(weights > 0, scores, np.inf), axis=1).astype(np.float64)
    counts = np.maximum((share * (weights > 0).sum(1)).astype(int), 1)
    taken = np.arange(ordered.shape[1]) < counts[:, None]
    return np.where(taken, ordered, 0).sum(1) / counts


def of_tokens(scores: tuple, share: float) -> dict[str, np.ndarray]:
    """{"min_k", "min_k_plus": float64[B]} of what `token_scores` gives (Shi et al. 2024; Zhang et al. 2025)."""
    log, mean, deviation, _, weights = scores
    against = (log - mean) / np.maximum(deviation, 1e-6)
    return {"min_k": lowest_mean(log, weights, share), "min_k_plus": lowest_mean(against, weights, share)}


def compressed(scores: tuple, decode: Callable[[Any], str]) -> np.ndarray:
    """float64[B]: minus nats per byte of the compressed text (Carlini et al. 2021, section 5.2)."""
    log, _, _, targets, weights = scores
    texts = [decode(row[weight > 0]).encode() for row, weight in zip(targets, weights, strict=True)]
    return (log * weights).sum(1) / np.array([len(zlib.compress(text)) for text in texts])


def lira(target: np.ndarray, shadows: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, bool]:
    """(float64[N], whether shadow runs inside and outside were compared) of confidences target[N] and shadows[S, N].

    inside: bool[S, N], which rows each shadow run was trained on. Where most rows are inside some runs and outside others, the
    ratio of the densities that both have at the target's confidence; otherwise the probability that a run that has not seen
    the row is less confident (Carlini et al. 2022, sections V-B and V-C). nan for rows of which the shadow runs do not tell it.
    """
    without = (~inside).any(0)
    both = inside.any(0) & without

    def normal(chosen):
        counts = chosen.sum(0)
        mean = np.where(chosen, shadows, 0).sum(0) / np.maximum(counts, 1)
        square = np.where(chosen, (shadows - mean) ** 2, 0)
        # Of few shadow runs one row's spread is mostly luck. Each mean that was estimated costs a degree of freedom.
        pooled = square.sum() / max(counts.sum() - (counts > 0).sum(), 1)
        each = square.sum(0) / np.maximum(counts - 1, 1)
        return mean, np.sqrt(np.maximum(each if counts.min() >= FEW else pooled, 1e-12))

    outside = stats.norm(*normal(~inside))
    if both.mean() <= 0.5:
        return np.where(without, outside.logcdf(target), np.nan), False
    return np.where(both, stats.norm(*normal(inside)).logpdf(target) - outside.logpdf(target), np.nan), True


def words(tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64[B, BUCKETS]: shares of hashed unigrams of tokens int[B, T] where weights are above 0."""
    hashed = (tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)) % np.uint64(BUCKETS)
    found = np.zeros((len(tokens), BUCKETS))
    for row, (buckets, weight) in enumerate(zip(hashed, weights > 0, strict=True)):
        np.add.at(found[row], buckets[weight].astype(int), 1.0)
    return found / np.maximum(found.sum(1, keepdims=True), 1)


def blind(members: np.ndarray, others: np.ndarray, seed: int = 0) -> float:
    """The AUC of a logistic regression that sees no model, only features [N, D] of the rows: 0.5 where both are alike.

    Cross-validated: every row is scored by a regression that has not seen it. AUC is of each fold, and averaged.
    """
    x = np.concatenate([members, others])
    labels = np.repeat([1, 0], [len(members), len(others)])
    deviation = x.std(0)
    x = (x - x.mean(0)) / np.where(deviation > 0, deviation, 1)
    rng = np.random.default_rng(seed)
    folds = np.concatenate([rng.permutation(len(each)) % FOLDS for each in (members, others)])
    found = []
    for fold in range(FOLDS):
        seen, rest = folds != fold, folds == fold
        weights = logistic(x[seen], labels[seen], 2, 1e-2, tolerance=1e-4)
        logits = x[rest] @ weights[:-1] + weights[-1]
        scores = special.log_softmax(logits, axis=1)[:, 1]
        found.append(auc(scores[labels[rest] == 1], scores[labels[rest] == 0]))
    return float(np.mean(found))
