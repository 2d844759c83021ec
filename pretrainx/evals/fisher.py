"""The diagonal Fisher information of a model on its own task: how much each parameter matters to what it predicts."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.adapt.preserving import of_numbers, predictions
from pretrainx.adapt.wrapper import innermost
from pretrainx.core import paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.models.layers import wide
from pretrainx.objectives.cross_entropy import token_nll
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.parallel.rules import Rules

WHERE = "config.evals.fisher"


@dataclass(frozen=True)
class FisherConfig:
    """F_i = mean over examples of the square of d log p(y | x) / d theta_i (Kirkpatrick et al. 2017, section 2).

    Attributes:
      examples: rows of the training split, the first that the run trained on.
      labels: "true": y is drawn from the model's own distribution (the Fisher information); "empirical": y is the data's (the
        empirical one). Drawn tokens follow the data's text, each given what truly stands before it. Of a squared error y is
        normal around the model's number with variance 1/2, so that F is the curvature of the loss.
      level: what y is. "sequence": all that is predicted of a row together, whose log-likelihoods add up. "token": one of its
        places, drawn with the places' weights; F is then that of a mean token. Where a row has one label both are the same.
      at_once: gradients of so many examples are held together.
    """

    examples: int = field(default=512, metadata={"min": 1})
    labels: str = field(default="true", metadata={"choices": ("true", "empirical")})
    level: str = field(default="sequence", metadata={"choices": ("sequence", "token")})
    at_once: int = field(default=4, metadata={"min": 1})


def negative_log_likelihood(objective: Objective, config: FisherConfig, params, extras, observation, keys):
    """Of ONE row, [1, ...] in all that is given: a draw of what `config` says, as a function of the parameters."""
    if (config.labels, config.level) == ("empirical", "sequence"):
        outcome = objective.encode(params, extras, observation, keys, 0, train=False)
        if jax.tree.leaves(outcome.representations):
            raise ConfigError(
                "Fisher information is of single examples, and the objective compares them",
                where="--evals=fisher",
                why=f"the loss of a row of {type(innermost(objective)).__name__} is a function of the other rows too",
                do="preserve with 'l2_sp' instead, which needs none",
            )
        return outcome.totals[objective.terms[0].name]
    logits, targets, weights = predictions(objective, params, extras, observation, WHERE)
    drawing, placing = jax.random.split(keys[0])
    if config.labels == "true":
        targets = jax.lax.stop_gradient(drawn(logits, of_numbers(targets), drawing))
    each = jnp.square(wide(logits)[..., 0] - targets) if of_numbers(targets) else token_nll(logits, targets)
    nll = jnp.where(weights > 0, weights * each, 0)
    if config.level == "sequence":
        return nll.sum()
    chosen = jax.random.categorical(placing, jnp.log(weights).ravel())
    return each.ravel()[chosen] * (weights > 0).any()


def drawn(logits: jax.Array, numbers: bool, key: jax.Array) -> jax.Array:
    """What the model would say: a class of logits [..., V]; of numbers one that is a standard deviation off.

    The square of a normal draw's gradient has that one's as its expectation, so that nothing need be left to chance.
    """
    return wide(logits)[..., 0] + 0.5**0.5 if numbers else jax.random.categorical(key, logits)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def squares(objective: Objective, rules: Rules, config: FisherConfig, params, extras, batch: Batch, key: jax.Array):
    """({trained leaf: sum over valid rows of the squared gradient, in float32 or wider}, how many rows those are)."""
    trained, frozen = paths.split(params, objective.trains)
    count = jax.tree.leaves(batch)[0].shape[0]
    group = math.gcd(config.at_once, count)
    with rules.bound():
        keys = objective.row_keys(key, batch)
        observation = objective.observe_rows(keys, batch, 0)

        def squared(row):
            observation, key, valid = row
            alone = jax.tree.map(lambda x: x[None], (observation, key))
            loss = lambda trained: negative_log_likelihood(
                objective, config, paths.merge(frozen, trained), extras, *alone
            )
            wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
            # `where`, since 0 times a NaN is NaN. Squared before anything is summed: F is no square of a mean.
            return jax.tree.map(lambda g: jnp.where(valid, jnp.square(wide(g)), 0), jax.grad(loss)(trained))

        def accumulate(total, rows):
            return jax.tree.map(lambda t, each: t + each.sum(0), total, jax.vmap(squared)(rows)), None

        grouped = lambda x: x.reshape(count // group, group, *x.shape[1:])
        rows = jax.tree.map(grouped, (observation, keys, observation.valid))
        form = jax.eval_shape(jax.vmap(squared), jax.tree.map(lambda x: x[0], rows))
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), form)
        return jax.lax.scan(accumulate, start, rows)[0], observation.valid.sum()


def fisher(
    objective: Objective,
    rules: Rules,
    config: FisherConfig,
    params: Any,
    extras: Any,
    batches: Iterable[Batch],
    seed: int,
) -> tuple[paths.Tree, int]:
    """({trained leaf: float32 of its shape}, over how many examples the mean is), of batches that hold config.examples rows.

    Draws are of (seed, batch index, row). Raises ConfigError for objectives whose examples interact, for mixtures, and where
    labels are to be drawn or places chosen and the objective has no logits.
    """
    total, examples = None, 0
    for index, batch in enumerate(batches):
        if "valid" not in batch:
            raise ConfigError(
                "Fisher information is of one task",
                where="--evals=fisher",
                why=f"the objective has several: {', '.join(batch)}",
                do="preserve with 'l2_sp' instead, which needs none",
            )
        key = random.stream(seed, random.EVALUATE, index)
        found, count = jax.device_get(squares(objective, rules, config, params, extras, batch, key))
        add = lambda old, new: old + np.asarray(new, np.float64)
        total = jax.tree.map(add, total, found) if total else jax.tree.map(lambda x: np.asarray(x, np.float64), found)
        examples += int(count)
    return jax.tree.map(lambda x: np.asarray(x / examples, np.float32), total), examples
