"""Elastic weight consolidation with a Fisher of ones: an anchor taken after `init_from` (Kirkpatrick et al. 2017)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core.records import Term
from pretrainx.core.schedule import Ramp


@dataclass(frozen=True)
class Ewc(Wrapper):
    strength: Ramp = Ramp(0.0, 0.5, 4)

    @property
    def terms(self):
        return self.inner.terms + (Term("ewc", self.strength),)

    def start(self, key, params, batch):
        params, extras = self.inner.start(key, params, batch)
        return params, {"inner": extras, "anchor": jax.tree.map(jnp.copy, params)}

    def observe_rows(self, keys, batch, step):
        observation = self.inner.observe_rows(keys, batch, step)
        return observation.replace(weights=observation.weights | {"ewc": observation.valid.astype(jnp.float32)})

    def encode(self, params, extras, observation, keys, step, *, train):
        outcome = super().encode(params, extras["inner"], observation, keys, step, train=train)
        moved = jax.tree.map(lambda p, a: ((p - a) ** 2).sum() / 2, params, extras["anchor"])
        penalty, rows = sum(jax.tree.leaves(moved)), observation.weights["ewc"]
        return outcome.replace(
            totals=outcome.totals | {"ewc": penalty * rows.sum()},  # weight one per row: k microbatches add up to one
            per_row=outcome.per_row | {"ewc": jax.lax.stop_gradient(penalty) * rows},
            extras={"inner": outcome.extras},
        )

    def couple(self, params, extras, representations, observation, step):
        outcome = super().couple(params, extras["inner"], representations, observation, step)
        return outcome.replace(extras={"inner": outcome.extras})

    def advance(self, params, extras, collected, key, step):
        params, inner = super().advance(params, extras["inner"], collected, key, step)
        return params, extras | {"inner": inner}

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        return super().outputs(params, extras["inner"], inputs, names, key, train=train)
