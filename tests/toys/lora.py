"""LoRA: low-rank updates inside the module, beside the kernels (Hu et al. 2021)."""

import re
from dataclasses import dataclass

import jax
from flax import linen as nn

from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core import paths
from pretrainx.models.layers import Linear, contract


@dataclass(frozen=True)
class Lora(Wrapper):
    rank: int = 4
    targets: str = "query|value"

    def init(self, key, batch):
        base = self.inner.init(key, batch)
        with self.scope(base):
            patched = self.inner.init(jax.random.fold_in(key, 1), batch)
        return paths.merge(patched, base)  # new leaves only: the base keeps its own initial values

    def trains(self, path):
        return path.split("/")[-1].startswith("lora_")

    def scope(self, params):
        return nn.intercept_methods(self.intercept)

    def intercept(self, call, args, kwargs, context):
        y, m = call(*args, **kwargs), context.module
        if type(m) is Linear and context.method_name == "__call__" and re.fullmatch(self.targets, m.name):
            count, low = len(m.inputs), (("rank", self.rank),)
            leaf = lambda name, start, sides: m.param(
                name,
                nn.with_logical_partitioning(start, tuple(axis for axis, _ in sides)),
                tuple(size for _, size in sides),
                m.precision.params,
            )
            a = leaf("lora_a", nn.initializers.normal(0.02), m.inputs + low)
            b = leaf("lora_b", nn.initializers.zeros, low + m.outputs)
            y = y + contract(contract(args[0], a, count, m.precision.compute), b, 1, m.precision.compute)
        return y
