"""CLIP-like: a coupled loss over the whole batch, a temperature that only `couple` uses, its clamp, a running mean."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.records import Mean, Observation, Outcome, Term
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import Autoregressive
from toys.views import pooled

CAP = 4.605170185988092  # ln 100


@dataclass(frozen=True)
class Clip(Autoregressive):
    temperature: float = 2.0

    terms = (Term("contrastive"),)

    def init(self, key, batch):
        scale = jnp.array(self.temperature, self.model.precision.params)
        return super().init(key, batch) | {"scale": boxed(scale)}

    def start(self, key, params, batch):
        return params, {"mean": boxed(jnp.zeros(self.model.config.width, self.model.precision.params), "embed")}

    def observe(self, key, example, step):
        tokens, half = example["tokens"], self.length // 2
        return Observation(
            {"left": tokens[:half], "right": tokens[half : 2 * half]}, {}, {"contrastive": jnp.float32(1)}
        )

    def encode(self, params, extras, observation, keys, step, *, train):
        keys = keys if train else None
        pair = {side: pooled(self.model, params, observation.inputs[side], keys) for side in ("left", "right")}
        # Divided by the rows, not by the valid ones: only what is linear in rows is the same for any microbatches.
        seen = (pair["left"] * observation.valid[:, None]).mean(0)
        return Outcome(representations=pair, extras={"mean": 0.9 * extras["mean"] + 0.1 * jax.lax.stop_gradient(seen)})

    def couple(self, params, extras, representations, observation, step):
        logits = jnp.exp(params["scale"]) * representations["left"] @ representations["right"].T
        weights, targets = observation.weights["contrastive"], jnp.arange(len(logits))
        real = lambda x: jnp.where(observation.valid[None, :], x, -1e9)  # padded rows are no negatives
        nll = (cross_entropy.token_nll(real(x), targets) for x in (logits, logits.T))
        right = (weights * (logits.argmax(1) == targets)).sum()
        scored = cross_entropy.outcome("contrastive", sum(nll) / 2, weights)
        return scored.replace(metrics={"accuracy": Mean(right, weights.sum())})

    def advance(self, params, extras, collected, key, step):
        return params | {"scale": jnp.minimum(params["scale"], CAP)}, extras
