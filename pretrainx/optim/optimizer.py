"""The optimizer of a run: a frozen, hashable record of numbers, schedule and leaf axes, made into an optax transform.

Weight decay and rates go by a leaf's role (core/axes.py) and path, never by its rank: in a scanned stack norm scales have
rank 2 and biases of heads rank 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.optim import layer_rates, moments, unfreezing
from pretrainx.optim.algorithms import (
    OPTIMIZERS,
    AdafactorConfig,
    AdamWConfig,
    Group,
    LARSConfig,
    LionConfig,
    MuonConfig,
    SGDConfig,
)
from pretrainx.optim.mup import Mup

__all__ = [
    "OPTIMIZERS",
    "AdafactorConfig",
    "AdamWConfig",
    "Group",
    "LARSConfig",
    "LionConfig",
    "MuonConfig",
    "Optimizer",
    "SGDConfig",
]


@dataclass(frozen=True)
class Optimizer:
    """What the train step needs to update parameters; static under jit.

    Attributes:
      config: one of OPTIMIZERS.
      schedule: step -> learning rate; its count does not move on skipped steps.
      clip: global gradient norm above which gradients are scaled down; 0 is off.
      leaves: ((path, axis names), ...) of every parameter, trained or not.
      shapes: ((path, shape), ...) of the same, of which layer-wise rates take the depth of a stack that is frozen; () is
        is to know those only of the leaves that are handed in.
      mup: how much wider and deeper the model is than the one whose rates were tuned.
    """

    config: Any
    schedule: Callable
    clip: float
    leaves: tuple[tuple[str, axes.Names], ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    mup: Mup = Mup()

    def __post_init__(self):
        for group in self.config.groups:
            found = paths.matching(group.pattern, self.by_path, "config.optimizer.groups")
            roles = sorted({axes.role(self.by_path[path]) for path in found})
            if group.role not in ("", *roles):
                raise ConfigError(
                    f"no parameter that {group.pattern!r} matches has the role {group.role!r}",
                    where="config.optimizer.groups",
                    why=f"{found[0]} has the role {axes.role(self.by_path[found[0]])!r}; roles found: {', '.join(roles)}",
                    do="leave out the role or the pattern, or correct one of them",
                )
            if group.layer_decay < 1 or group.unfreeze_every:
                layer_rates.check(group, found, self.by_path)
            if group.unfreeze_every:
                unfreezing.check(self.config)

    @functools.cached_property
    def by_path(self) -> dict[str, axes.Names]:
        return dict(self.leaves)

    def groups(self, path: str) -> list[int]:
        """The numbers of the config's groups that a leaf is in."""
        role = axes.role(self.by_path[path])
        return [number for number, group in enumerate(self.config.groups) if group.has(path, role)]

    def multipliers(self, path: str) -> tuple[float, float]:
        """(learning rate, weight decay) multipliers of one leaf, layer-wise rates left out."""
        rate = self.mup.rate(self.config, self.by_path[path])
        decay = float(axes.role(self.by_path[path]) in self.config.decays) / rate
        for number in self.groups(path):
            group = self.config.groups[number]
            rate, decay = rate * group.rate, decay * group.decay
        return rate, decay

    def rates(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, float | np.ndarray]:
        """{path: the multiplier of its learning rate}; under layer-wise rates an array that broadcasts along `layers`."""
        found = {path: self.multipliers(path)[0] for path in shapes}
        for number, group in enumerate(self.config.groups):
            if group.layer_decay < 1:
                for path, factor in layer_rates.factors(group, *self._stacks(number, shapes)).items():
                    found[path] = found[path] * factor
        return found

    def joins(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, float | np.ndarray]:
        """{path: the update from which it is trained}, in the form of `rates`."""
        found: dict[str, float | np.ndarray] = {path: 0.0 for path in shapes}
        for number, group in enumerate(self.config.groups):
            if group.unfreeze_every:
                for path, level in layer_rates.levels(group, *self._stacks(number, shapes)).items():
                    found[path] = np.maximum(found[path], group.unfreeze_every * level)
        return found

    def _stacks(self, number: int, shapes: dict[str, tuple[int, ...]]) -> tuple:
        """(leaves of a group {path: shape}, axes by path, blocks of its deepest stack)"""
        chosen = {path: shape for path, shape in shapes.items() if number in self.groups(path)}
        known = [(path, shape) for path, shape in self.shapes or shapes.items() if number in self.groups(path)]
        return chosen, self.by_path, layer_rates.depth(known, self.by_path)

    @functools.cached_property
    def transform(self) -> optax.GradientTransformation:
        """The optax chain, its states under names that a checkpoint can keep when a part is added or dropped."""
        clip = [("clip", optax.clip_by_global_norm(self.clip))] if self.clip > 0 else []
        decay = ("decay", optax.stateless(self._decayed))
        rates = [
            ("rates", optax.stateless(self._scaled)),
            ("rate", optax.scale_by_learning_rate(self.schedule)),
        ]
        adam = self.mup.scales and isinstance(self.config, AdamWConfig)
        epsilon = [("epsilon", optax.stateless(self._as_at_base))] if adam else []
        parts = [*clip, *epsilon, *self.config.parts(self.by_path, decay, rates)]
        if any(group.unfreeze_every for group in self.config.groups):
            parts = unfreezing.around(parts, self.joins, self.config)
        return moments.stored(optax.named_chain(*parts), self.config.moments)

    def _as_at_base(self, gradients, params):
        scale = lambda path, gradient: gradient * self.mup.gradient(self.by_path[path])
        return paths.map_leaves(scale, gradients)

    def _decayed(self, updates, params):
        strength = self.config.weight_decay
        leaf = dict(paths.leaves(params))
        add = lambda path, update: update + strength * self.multipliers(path)[1] * leaf[path]
        return paths.map_leaves(add, updates)

    def _scaled(self, updates, params):
        rates = self.rates({path: update.shape for path, update in paths.leaves(updates)})
        scale = lambda path, update: update * jnp.asarray(rates[path], update.dtype)
        return paths.map_leaves(scale, updates)

    def init(self, params: paths.Tree):
        return self.transform.init(params)

    def update(self, gradients: paths.Tree, state, params: paths.Tree):
        """(new params, new state)"""
        updates, state = self.transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def learning_rate(self, state) -> jax.Array:
        """The rate that the next update will use."""
        return self.schedule(state["rate"].count)

    def shardings(self, state, params, params_shardings, other):
        """A state's shardings: a leaf whose path ends in a parameter's path and that has its shape lies like it.

        Counts take `other`, and so do rows and columns of a factored moment: they are small, and a parameter's sharding
        is not theirs. `params` need only have shapes.
        """
        known = dict(paths.leaves(params_shardings))
        owners = moments.owners(state, {path: leaf.shape for path, leaf in paths.leaves(params)})
        return jax.tree.map(lambda owner: known[owner] if owner else other, owners)

    def table(self, shapes: dict[str, tuple[int, ...]]) -> list[tuple]:
        """(path, role, matrix shape, rate multiplier as `rates` has it, decay) of every leaf, for printing and for tests."""
        rates = self.rates(shapes)
        decays = {path: self.multipliers(path)[1] * self.config.weight_decay for path in shapes}
        return [
            (path, axes.role(names), axes.matrix_shape(names, shapes[path]), rates[path], decays[path])
            for path, names in self.leaves
        ]
