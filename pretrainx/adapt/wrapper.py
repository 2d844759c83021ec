"""A wrapper is an objective around an objective. This one changes nothing; others override what they change."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from pretrainx.objectives.objective import Objective


def innermost(objective: Objective) -> Objective:
    """The objective that wrappers are around."""
    while isinstance(objective, Wrapper):
        objective = objective.inner
    return objective


@dataclass(frozen=True)
class Wrapper(Objective):
    """Passes every call on to `inner`. The model runs inside `scope(params)`, where interceptors enter modules."""

    inner: Objective

    @property
    def heads(self):
        return self.inner.heads

    @property
    def constants(self):
        return self.inner.constants

    @property
    def unit_pictures(self):
        return self.inner.unit_pictures

    @property
    def output_names(self):
        return self.inner.output_names

    def scope(self, params) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def effective(self, params):
        """The inner objective's parameters with which it does the same, as far as there are such: updates of weights merged."""
        return self.inner.effective(params) if isinstance(self.inner, Wrapper) else params

    @property
    def terms(self):
        return self.inner.terms

    @property
    def reads(self):
        return self.inner.reads

    def batch_spec(self, rows):
        return self.inner.batch_spec(rows)

    def init(self, key, batch):
        return self.inner.init(key, batch)

    def start(self, key, params, batch):
        return self.inner.start(key, params, batch)

    def trains(self, path):
        return self.inner.trains(path)

    def observe(self, key, example, step):
        return self.inner.observe(key, example, step)

    def encode(self, params, extras, observation, keys, step, *, train):
        with self.scope(params):
            return self.inner.encode(params, extras, observation, keys, step, train=train)

    def couple(self, params, extras, representations, observation, step):
        with self.scope(params):
            return self.inner.couple(params, extras, representations, observation, step)

    def advance(self, params, extras, collected, key, step):
        return self.inner.advance(params, extras, collected, key, step)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        with self.scope(params):
            return self.inner.outputs(params, extras, inputs, names, key, train=train)

    def cache(self, params, extras, rows, length, source=None):
        with self.scope(params):
            return self.inner.cache(params, extras, rows, length, source)

    @property
    def decodes(self):
        return self.inner.decodes

    def decode(self, params, extras, tokens, cache):
        with self.scope(params):
            return self.inner.decode(params, extras, tokens, cache)

    def adapts(self, path: str) -> bool:
        """Whether this wrapper or one further inside trains the leaf although the base is frozen."""
        return isinstance(self.inner, Wrapper) and self.inner.adapts(path)

    def flops_per_row(self):
        return self.inner.flops_per_row()

    def flops_by_convention(self):
        return self.inner.flops_by_convention()

    def parameter_counts(self):
        return self.inner.parameter_counts()

    def row_keys(self, key, batch):
        return self.inner.row_keys(key, batch)

    def observe_rows(self, keys, batch, step):
        return self.inner.observe_rows(keys, batch, step)


@dataclass(frozen=True)
class Frozen(Wrapper):
    """The base keeps its values: what wrappers add, and the heads that a task adds, are trained."""

    def trains(self, path):
        return self.adapts(path) or (path.split("/")[0] in self.heads and self.inner.trains(path))

    def flops_per_row(self):
        return None  # the base's count has gradients of its weights, which are not computed here

    def flops_by_convention(self):
        return {}

    def parameter_counts(self):
        return None  # wrappers add some
