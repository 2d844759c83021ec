"""MoCo-like: a queue of keys, a momentum teacher, a schedule of the momentum (He et al. 2020)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.records import Observation, Term
from pretrainx.core.schedule import Cosine
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import Autoregressive
from toys.views import pooled, view


@dataclass(frozen=True)
class Moco(Autoregressive):
    queue: int = 32
    momentum: Cosine = Cosine(0.5, 1.0, 10)

    terms = (Term("info_nce"),)

    def start(self, key, params, batch):
        keys = jax.random.normal(key, (self.queue, self.model.config.width), self.model.precision.params)
        keys = keys / jnp.linalg.norm(keys, axis=1, keepdims=True)
        teacher = jax.tree.map(jnp.copy, params)
        return params, {"teacher": teacher, "queue": boxed(keys, None, "embed"), "next": boxed(jnp.int32(0))}

    def observe(self, key, example, step):
        first, second = (view(jax.random.fold_in(key, i), example["tokens"][1:]) for i in (0, 1))
        return Observation({"query": first, "key": second}, {}, {"info_nce": jnp.float32(1)})

    def encode(self, params, extras, observation, keys, step, *, train):
        query = pooled(self.model, params, observation.inputs["query"], keys if train else None)
        key = jax.lax.stop_gradient(pooled(self.model, extras["teacher"], observation.inputs["key"], None))
        logits = jnp.concatenate([(query * key).sum(1, keepdims=True), query @ extras["queue"].T], 1) / 0.2
        nll = cross_entropy.token_nll(logits, jnp.zeros(len(logits), jnp.int32))
        scored = cross_entropy.outcome("info_nce", nll, observation.weights["info_nce"])
        return scored.replace(collected={"keys": key})

    def advance(self, params, extras, collected, key, step):
        rows = collected["keys"].shape[0]
        queue = extras["queue"].at[extras["next"] + jnp.arange(rows)].set(collected["keys"])
        m = self.momentum(step + 1)  # moved after step t with the momentum of t + 1: "before the forward of t + 1"
        teacher = jax.tree.map(lambda t, p: m * t + (1 - m) * p, extras["teacher"], params)
        return params, {"teacher": teacher, "queue": queue, "next": (extras["next"] + rows) % self.queue}
