"""Bottleneck adapters in transformer blocks (Houlsby et al. 2019; Pfeiffer et al. 2021)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from flax import linen as nn

from pretrainx.adapt.inserted import Inserted, in_block, leaf
from pretrainx.models.attention import Attention, CrossAttention
from pretrainx.models.layers import ACTIVATIONS, Linear, contract, wide
from pretrainx.models.stack import MLP
from pretrainx.objectives.objective import Objective

LAYOUTS = ("houlsby", "pfeiffer")
NORM = re.compile(r"(.*/)?\w*norm/(scale|bias)")


@dataclass(frozen=True)
class AdapterConfig:
    """The section `config.adapt`: x + act(x D + b) U + c behind parts of each block, before the sum with the stream.

    D starts small and U as zeros, so at first the model is the base. An adapter has 2 m d + m + d parameters.

    Attributes:
      layout: "houlsby": behind attention, to oneself or to another sequence, and behind the MLP, and the model's norms are
        trained too; "pfeiffer": behind the MLP alone. Behind a mixture of experts stands none.
      width: m, of the bottleneck; the stream's is d.
      activation: in the bottleneck.
    """

    layout: str = field(default="houlsby", metadata={"choices": LAYOUTS})
    width: int = field(default=64, metadata={"min": 1})
    activation: str = field(default="gelu", metadata={"choices": tuple(ACTIVATIONS)})

    def wrap(self, objective: Objective) -> Adapter:
        return Adapter(objective, self)


@dataclass(frozen=True)
class Adapter(Inserted):
    """Beside the last kernel of each adapted part stand the adapter's two kernels and biases."""

    config: AdapterConfig = AdapterConfig()
    prefix = "adapter_"

    def adapts(self, path):
        norms = self.config.layout == "houlsby" and NORM.fullmatch(path) is not None
        return norms and self.inner.trains(path) or super().adapts(path)

    def interceptor(self):
        def intercept(call, args, kwargs, context):
            y, module = call(*args, **kwargs), context.module
            chosen = type(module) is Linear and context.method_name == "__call__" and self._chosen(module)
            return self._adapted(module, y) if chosen else y

        return intercept

    def _chosen(self, module):
        if not module.is_initializing():
            return module.has_variable("params", "adapter_down")
        behind_mlp = type(module.parent) is MLP and module.name == "down"
        if self.config.layout == "pfeiffer":
            return behind_mlp and module.parent.name == "mlp" and in_block(module)
        behind_attention = type(module.parent) in (Attention, CrossAttention) and module.name == "out"
        return (behind_mlp or behind_attention) and in_block(module)

    def _adapted(self, module, y):
        size, compute, zeros = y.shape[-1], module.precision.compute, nn.initializers.zeros
        down_sizes, wide_sizes = (size, self.config.width), (self.config.width, size)
        small = nn.initializers.truncated_normal(1e-2)
        down = leaf(module, "adapter_down", small, ("embed", "bottleneck"), down_sizes)
        down_bias = leaf(module, "adapter_down_bias", zeros, ("bottleneck",), down_sizes[1:])
        up = leaf(module, "adapter_up", zeros, ("bottleneck", "embed"), wide_sizes)
        up_bias = leaf(module, "adapter_up_bias", zeros, ("embed",), wide_sizes[1:])
        inner = ACTIVATIONS[self.config.activation](contract(y, down, 1, compute, wide=True) + down_bias)
        return (wide(y) + contract(inner, up, 1, compute, wide=True) + up_bias).astype(y.dtype)
