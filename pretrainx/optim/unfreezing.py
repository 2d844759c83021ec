"""Gradual unfreezing: parts of a model join its training one after another (Howard & Ruder 2018, section 3.3).

It is a mask along `layers` around the optimizer: what has not joined has no gradient, so its moments stay zero and the global
norm does not count it, and no update, so its weights do not decay either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.optim.algorithms import AdamWConfig, SGDConfig

# {path: the update from which it is trained, a number or an array that broadcasts}, of {path: shape}.
Joins = Callable[[dict[str, tuple[int, ...]]], dict[str, Any]]


def check(config: Any) -> None:
    """ConfigError for an optimizer whose moments are not as if a block that joins late had begun then."""
    if type(config) not in (AdamWConfig, SGDConfig):
        raise ConfigError(
            "gradual unfreezing is for adamw and sgd",
            where="config.optimizer.groups",
            why=f"unfreeze_every with a {type(config).__name__}",
            do="--config.optimizer.name=adamw, or leave out unfreeze_every",
        )


def around(parts: list[tuple], joins: Joins, config: Any) -> list[tuple]:
    """The (name, transform) pairs of an optimizer, masked at both ends; Adam's bias correction counts from each block's own
    start, since the whole optimizer's count is far ahead by then."""
    masked = by_age(lambda age, _: (age >= 0).astype(jnp.float32), joins)
    found = [("joined", masked)]
    for name, transform in parts:
        found.append((name, transform))
        if name == "adam":
            found.append(("age", by_age(lambda age, count: corrected(age, count, config.b1, config.b2), joins)))
    return [*found, ("updated", masked)]


def by_age(factor: Callable[[jax.Array, jax.Array], jax.Array], joins: Joins) -> optax.GradientTransformation:
    """Multiplies each leaf by factor(updates since it joined, updates in all), both counted from 0."""

    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        starts = joins({path: leaf.shape for path, leaf in paths.leaves(updates)})
        scale = lambda path, leaf: (
            leaf * factor(state.count - jnp.asarray(starts[path]), state.count).astype(leaf.dtype)
        )
        return paths.map_leaves(scale, updates), optax.ScaleByScheduleState(optax.safe_int32_increment(state.count))

    return optax.GradientTransformation(init, update)


def corrected(age: jax.Array, count: jax.Array, b1: float, b2: float) -> jax.Array:
    """What turns Adam's bias correction after `count` updates into that after `age` (Kingma & Ba 2015, section 3)."""
    own, all_ = jnp.maximum(age, 0) + 1.0, count + 1.0
    return (1 - b1**all_) / (1 - b1**own) * jnp.sqrt((1 - b2**own) / (1 - b2**all_))
