"""IA3: trained gains on keys, values and the MLP's inner activations (Liu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from flax import linen as nn

from pretrainx.adapt.inserted import Inserted, in_block, leaf
from pretrainx.models.attention import Attention, CrossAttention
from pretrainx.models.layers import Linear, wide
from pretrainx.models.stack import MLP
from pretrainx.objectives.objective import Objective

GAIN = "ia3_gain"


@dataclass(frozen=True)
class Ia3Config:
    """The section `config.adapt`. A gain for each dimension of keys and values and for what the MLP's last kernel reads, in
    every block, but none for experts; all start at 1, so at first the model is the base."""

    def wrap(self, objective: Objective) -> Ia3:
        return Ia3(objective)


@dataclass(frozen=True)
class Ia3(Inserted):
    """`ia3_gain` stands beside the kernels of keys and values ([L, N, K] in a stack) and of the MLP's last ([L, F])."""

    prefix = "ia3_"

    def interceptor(self):
        def intercept(call, args, kwargs, context):
            module = context.module
            if type(module) is not Linear or context.method_name != "__call__" or not self._chosen(module):
                return call(*args, **kwargs)
            before = module.name == "down"
            sides = module.inputs if before else module.outputs
            names, sizes = tuple(name for name, _ in sides), tuple(size for _, size in sides)
            gain = leaf(module, GAIN, nn.initializers.ones, names, sizes)
            scaled = lambda x: (wide(x) * gain).astype(x.dtype)
            return call(scaled(args[0]), *args[1:], **kwargs) if before else scaled(call(*args, **kwargs))

        return intercept

    def _chosen(self, module):
        if not module.is_initializing():
            return module.has_variable("params", GAIN)
        of_attention = type(module.parent) in (Attention, CrossAttention) and module.name in ("key", "value")
        return (of_attention or type(module.parent) is MLP and module.name == "down") and in_block(module)
