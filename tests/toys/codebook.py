"""VQ-like: a codebook moved by running sums over the batch, dead codes revived with a key (van den Oord et al. 2017)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.records import Observation, Sum, Term
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import Autoregressive
from toys.views import pooled


@dataclass(frozen=True)
class Codebook(Autoregressive):
    codes: int = 8

    terms = (Term("commitment"),)

    def start(self, key, params, batch):
        dtype, width = self.model.precision.params, self.model.config.width
        counts, sums = jnp.ones(self.codes, dtype), jax.random.normal(key, (self.codes, width), dtype)
        return params, {"counts": boxed(counts, None), "sums": boxed(sums, None, "embed")}

    def observe(self, key, example, step):
        return Observation({"tokens": example["tokens"][1:]}, {}, {"commitment": jnp.float32(1)})

    def encode(self, params, extras, observation, keys, step, *, train):
        z = pooled(self.model, params, observation.inputs["tokens"], keys if train else None)
        codes = extras["sums"] / extras["counts"][:, None]
        chosen = jnp.argmin(((jax.lax.stop_gradient(z)[:, None] - codes[None]) ** 2).sum(-1), 1)
        votes = jax.nn.one_hot(chosen, self.codes, dtype=z.dtype) * observation.valid[:, None]
        distance = ((z - codes[chosen]) ** 2).sum(-1)
        scored = cross_entropy.outcome("commitment", distance, observation.weights["commitment"])
        sums = votes.T @ jax.lax.stop_gradient(z)
        return scored.replace(collected={"counts": Sum(votes.sum(0)), "sums": Sum(sums)})

    def advance(self, params, extras, collected, key, step):
        blend = lambda name: 0.9 * extras[name] + 0.1 * collected[name].array
        counts, sums = blend("counts"), blend("sums")
        fresh, dead = jax.random.normal(key, sums.shape, sums.dtype), counts < 0.3
        return params, {"counts": jnp.where(dead, 1, counts), "sums": jnp.where(dead[:, None], fresh, sums)}
