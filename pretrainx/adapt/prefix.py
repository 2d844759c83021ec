"""Prefix tuning: trained keys and values before those of every layer (Li & Liang 2021), without their reparametrisation."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
from flax import linen as nn

from pretrainx.adapt.inserted import Inserted, leaf
from pretrainx.adapt.prompt import refuse_packed
from pretrainx.models.attention import Attention, Cache
from pretrainx.models.stack import Block
from pretrainx.objectives.objective import Objective

KEY, VALUE = "prefix_key", "prefix_value"


@dataclass(frozen=True)
class PrefixConfig:
    """The section `config.adapt`. In a stack of L layers 2 L p N K parameters, with N heads of keys of width K.

    Tokens keep their positions, so no position table is outgrown; the prefix has none, and is seen from everywhere.

    Attributes:
      length: p, keys and values of each layer's self-attention.
      std: of their normal start.
    """

    length: int = field(default=20, metadata={"min": 1})
    std: float = field(default=0.02, metadata={"above": 0})

    def wrap(self, objective: Objective) -> Prefix:
        return Prefix(objective, self)


@dataclass(frozen=True)
class Prefix(Inserted):
    """`prefix_key` and `prefix_value` [L, p, N, K] stand in the attention of each block."""

    config: PrefixConfig = PrefixConfig()
    prefix = "prefix_"

    def __post_init__(self):
        refuse_packed(self.inner, "a prefix")

    def interceptor(self):
        def intercept(call, args, kwargs, context):
            module = context.module
            if type(module) is not Attention or context.method_name != "__call__" or not self._chosen(module):
                return call(*args, **kwargs)
            return self._prefixed(module, call, *args, **kwargs)

        return intercept

    def _chosen(self, module):
        if module.is_initializing():
            return type(module.parent) is Block
        return module.has_variable("params", KEY)

    def _prefixed(
        self, module, call, x, turns=None, segments=None, cache=None, seen=None, bias=None, key_segments=None
    ):
        """The prefix is what a cache holds before the first token."""
        config, length = module.config, self.config.length
        names, shape = ("prompt", "heads", "head_dim"), (length, config.shared_heads, config.head_size)
        start, rows = nn.initializers.normal(self.config.std), x.shape[0]
        key, value = (leaf(module, name, start, names, shape) for name in (KEY, VALUE))
        places = x.shape[1] if cache is None else cache.key.shape[1]
        empty = jnp.zeros((rows, places, *shape[1:]), module.precision.compute)
        before = Cache(empty, empty, jnp.zeros((), jnp.int32)) if cache is None else cache
        behind = lambda prefix, rest: jnp.concatenate(
            [jnp.broadcast_to(prefix.astype(rest.dtype), (rows, *shape)), rest], 1
        )
        whole = Cache(behind(key, before.key), behind(value, before.value), before.filled + length)
        key_segments = segments if key_segments is None else key_segments
        front = lambda array, filling: (
            array if array is None else jnp.pad(array, [(0, 0), (length, 0)], constant_values=filling)
        )
        if seen is None and config.window:
            seen = jnp.zeros((rows, places), bool)
        bias = bias if bias is None else jnp.pad(bias, [(0, 0), (0, 0), (0, 0), (length, 0)])
        y, after = call(x, turns, segments, whole, front(seen, True), bias, front(key_segments, 1))
        if cache is None:
            return y, None
        return y, Cache(after.key[:, length:], after.value[:, length:], after.filled - length)
