"""The optimizer of a run: a frozen, hashable record of numbers, schedule and leaf axes, made into an optax transform.

Weight decay and rates go by a leaf's role (core/axes.py) and path, never by its rank: in a scanned stack norm scales have
rank 2 and biases of heads rank 3.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import optax

from pretrainx.core import axes, paths
from pretrainx.optim import muon

ROLES = ("kernel", "bias", "norm", "embedding", "head", "scalar")


@dataclass(frozen=True)
class Group:
    """Parameters whose whole path matches `pattern`: their learning rate and weight decay are multiplied."""

    pattern: str
    rate: float = field(default=1.0, metadata={"min": 0})
    decay: float = field(default=1.0, metadata={"min": 0})


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter 2019); `decays` lists the roles that decay."""

    b1: float = field(default=0.9, metadata={"min": 0, "max": 1})
    b2: float = field(default=0.95, metadata={"min": 0, "max": 1})
    epsilon: float = field(default=1e-8, metadata={"above": 0})
    weight_decay: float = field(default=0.1, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=("kernel", "head", "embedding"), metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()

    def direction(self, by_path):
        return "adam", optax.scale_by_adam(self.b1, self.b2, self.epsilon)


@dataclass(frozen=True)
class SGDConfig:
    """Stochastic gradient descent with momentum."""

    momentum: float = field(default=0.9, metadata={"min": 0, "max": 1})
    weight_decay: float = field(default=0.0, metadata={"min": 0})
    decays: tuple[str, ...] = field(default=("kernel", "head", "embedding"), metadata={"choices": ROLES})
    groups: tuple[Group, ...] = ()

    def direction(self, by_path):
        return "momentum", optax.trace(self.momentum)


@dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Muon (Jordan et al. 2024) on hidden matrices, AdamW on everything else (embeddings, head, norms, biases).

    Muon's updates are scaled by 0.2 sqrt(larger side), which gives them Adam's size (Liu et al. 2025): one rate serves both.
    """

    momentum: float = field(default=0.95, metadata={"min": 0, "max": 1})

    def direction(self, by_path):
        _, adam = super().direction(by_path)
        return "muon", muon.by_role(by_path, self.momentum, adam)


OPTIMIZERS = {"adamw": AdamWConfig, "muon": MuonConfig, "sgd": SGDConfig}


@dataclass(frozen=True)
class Optimizer:
    """What the train step needs to update parameters; static under jit.

    Attributes:
      config: one of OPTIMIZERS.
      schedule: step -> learning rate; its count does not move on skipped steps.
      clip: global gradient norm above which gradients are scaled down; 0 is off.
      leaves: ((path, axis names), ...) of every parameter, trained or not.
    """

    config: AdamWConfig | MuonConfig | SGDConfig
    schedule: Callable
    clip: float
    leaves: tuple[tuple[str, axes.Names], ...]

    def __post_init__(self):
        for group in self.config.groups:
            paths.matching(group.pattern, self.by_path, "config.optimizer.groups")

    @functools.cached_property
    def by_path(self) -> dict[str, axes.Names]:
        return dict(self.leaves)

    def multipliers(self, path: str) -> tuple[float, float]:
        """(learning rate, weight decay) multipliers of one leaf."""
        rate, decay = 1.0, float(axes.role(self.by_path[path]) in self.config.decays)
        for group in self.config.groups:
            if re.fullmatch(group.pattern, path):
                rate, decay = rate * group.rate, decay * group.decay
        return rate, decay

    @functools.cached_property
    def transform(self) -> optax.GradientTransformation:
        """The optax chain, its states under names that a checkpoint can keep when a part is added or dropped."""
        parts = []
        if self.clip > 0:
            parts.append(("clip", optax.clip_by_global_norm(self.clip)))
        parts.append(self.config.direction(self.by_path))
        parts.append(("decay", optax.stateless(self._decayed)))
        parts.append(("rates", optax.stateless(self._scaled)))
        parts.append(("rate", optax.scale_by_learning_rate(self.schedule)))
        return optax.named_chain(*parts)

    def _decayed(self, updates, params):
        strength = self.config.weight_decay
        leaf = dict(paths.leaves(params))
        add = lambda path, update: update + strength * self.multipliers(path)[1] * leaf[path]
        return paths.map_leaves(add, updates)

    def _scaled(self, updates, params):
        return paths.map_leaves(lambda path, update: update * self.multipliers(path)[0], updates)

    def init(self, params: paths.Tree):
        return self.transform.init(params)

    def update(self, gradients: paths.Tree, state, params: paths.Tree):
        """(new params, new state)"""
        updates, state = self.transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def learning_rate(self, state) -> jax.Array:
        """The rate that the next update will use."""
        return self.schedule(state["rate"].count)

    def shardings(self, state, params_shardings, other):
        """A state's shardings: a leaf whose path ends in a parameter's path lies like it, counts take `other`."""
        known = dict(paths.leaves(params_shardings))

        def place(path, leaf):
            names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
            ends = ("/".join(names[i:]) for i in range(len(names)))
            return next((known[end] for end in ends if end in known), other)

        return jax.tree_util.tree_map_with_path(place, state)

    def table(self, shapes: dict[str, tuple[int, ...]]) -> list[tuple]:
        """(path, role, matrix shape, rate multiplier, decay) of every leaf, for printing and for tests."""
        return [
            (path, axes.role(names), axes.matrix_shape(names, shapes[path]), rate, decay * self.config.weight_decay)
            for path, names in self.leaves
            for rate, decay in [self.multipliers(path)]
        ]
