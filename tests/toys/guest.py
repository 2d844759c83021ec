"""A guest: a model written in NNX, brought in through flax.nnx.bridge; the contract does not notice."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from pretrainx.core import paths
from pretrainx.core.axes import boxed
from pretrainx.models.experts import ExpertsConfig
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import Autoregressive

AXES = {"table/embedding": ("vocab", "embed"), "out/kernel": ("embed", "vocab"), "out/bias": ("vocab",)}


class Bigram(nnx.Module):
    def __init__(self, size, width, dtype, rngs):
        self.table = nnx.Embed(size, width, param_dtype=dtype, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, size, param_dtype=dtype, dtype=dtype, rngs=rngs)

    def __call__(self, tokens):
        return self.out(jnp.tanh(self.table(tokens)))


@dataclass(frozen=True)
class Guest(Autoregressive):
    """`model` is a bridge.ToLinen around Bigram."""

    experts = ExpertsConfig()

    def init(self, key, batch):
        params = super().init(key, batch)
        return paths.map_leaves(lambda path, leaf: boxed(leaf, *AXES[path]), params)

    def encode(self, params, extras, observation, keys, step, *, train):
        logits = self.model.apply({"params": params}, observation.inputs["tokens"])
        nll = cross_entropy.token_nll(logits, observation.targets)
        return cross_entropy.outcome("nll", nll, observation.weights["nll"])


def bigram(size, width, dtype):
    return bridge.ToLinen(Bigram, args=(size, width, dtype))
