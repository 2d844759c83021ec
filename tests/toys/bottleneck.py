"""Bottleneck adapters at block outputs, inside the scan (Houlsby et al. 2019)."""

from dataclasses import dataclass

import jax
from flax import linen as nn

from pretrainx.models.stack import Block
from toys.lora import Lora


@dataclass(frozen=True)
class Bottleneck(Lora):
    def trains(self, path):
        return "/adapter_" in path

    def intercept(self, call, args, kwargs, context):
        result, m = call(*args, **kwargs), context.module
        if type(m) is not Block or context.method_name != "__call__":
            return result
        x, carry = result
        boxed = nn.with_logical_partitioning
        shape, dtype = (x.shape[-1], self.rank), m.precision.params
        down = m.param("adapter_down", boxed(nn.initializers.normal(0.02), ("embed", "rank")), shape, dtype)
        up = m.param("adapter_up", boxed(nn.initializers.zeros, ("rank", "embed")), shape[::-1], dtype)
        return x + jax.nn.gelu(x @ down) @ up, carry
