"""LoRA: low-rank updates beside frozen kernels (Hu et al. 2021), and rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024)."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.adapt.inserted import Inserted, leaf, path_of
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, nearest
from pretrainx.models.layers import Linear, contract, dropout, wide
from pretrainx.models.stack import Block
from pretrainx.objectives.objective import Objective, Params

A, B, MAGNITUDE = "lora_a", "lora_b", "lora_magnitude"
# The draws of the first block; the model's own have lower numbers.
FIRST_DRAW = 2**20


@dataclass(frozen=True)
class LoraConfig:
    """The section `config.adapt`: y = x W + scale drop(x) A B, with W frozen, A [inputs, rank] and B [rank, outputs].

    A starts uniform within 1 / sqrt(inputs) and B as zeros, so at first the model is the base. Queries, keys and values have
    kernels of their own here: where a reference has one for all three, its update is one of each.

    Attributes:
      rank, alpha: scale is alpha / rank.
      dropout: rate on what A reads, in transformer blocks and in training.
      targets: a regular expression that the whole path of a dense layer matches, such as ".*/mlp/(up|down)"; the heads that
        the task adds are none, they are trained whole. Of a mixture of experts the router is such a layer, and is adapted where
        the pattern matches it, as ".*" does; the experts are none, and stand still.
      rslora: scale is alpha / sqrt(rank).
      dora: W + scale A B gives the direction of each output's column only; its length is a parameter.
    """

    rank: int = field(default=8, metadata={"min": 1})
    alpha: float = field(default=16.0, metadata={"above": 0})
    dropout: float = field(default=0.0, metadata={"min": 0, "max": 0.99})
    targets: str = ".*(query|value)"
    rslora: bool = False
    dora: bool = False

    def __post_init__(self):
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigError(
                f"{self.targets!r} is not a regular expression",
                where="config.adapt.targets",
                why=str(error),
                do="mend the pattern",
            ) from error

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def wrap(self, objective: Objective) -> Lora:
        return Lora(objective, self)


@dataclass(frozen=True)
class Lora(Inserted):
    """Beside each chosen kernel stand `lora_a` and `lora_b`, in a stack of L layers [L, inputs, r] and [L, r, outputs], and
    with DoRA `lora_magnitude` [L, outputs]. They lie over devices as the kernel's inputs and outputs do."""

    config: LoraConfig = LoraConfig()
    prefix = "lora_"

    def refusal(self, dense):
        dense = [path for path in dense if path.split("/")[0] not in self.heads]
        return ConfigError(
            f"no dense layer of the model matches {self.config.targets!r}",
            where="config.adapt.targets",
            why=nearest(self.config.targets, dense) if dense else "the model has none: convolutions are not",
            do="patterns match whole paths: write '.*query', not 'query'" if dense else "--config.adapt.name=full",
        )

    def start(self, key, params, batch):
        """The magnitudes are the lengths of the columns of what was restored; those of an earlier run with DoRA stay."""
        if not self.config.dora:
            return self.inner.start(key, params, batch)
        known = dict(paths.leaves(params))

        def measured(path, magnitude):
            if not path.endswith(MAGNITUDE):
                return magnitude
            kernel, a, b = (known[path.replace(MAGNITUDE, name)].value for name in ("kernel", A, B))
            found = lengths(*updated(kernel, a, b, self.config.scale))
            return magnitude.replace_boxed(jnp.where((magnitude.value == 0).all(), found, magnitude.value))

        return self.inner.start(key, paths.map_leaves(measured, params), batch)

    def interceptor(self):
        blocks = []  # (keys of the rows, number of the layer) of the one that is being called

        def intercept(call, args, kwargs, context):
            module = context.module
            if context.method_name != "__call__" or type(module) not in (Block, Linear):
                return call(*args, **kwargs)
            if type(module) is Linear:
                y = call(*args, **kwargs)
                return self._adapted(module, args[0], y, *blocks[-1:]) if self._chosen(module) else y
            _, layer, _, _, around = args
            blocks.append((around.keys, layer))
            try:
                return call(*args, **kwargs)
            finally:
                blocks.pop()

        return intercept

    def _chosen(self, module):
        if module.is_initializing():
            return bool(re.fullmatch(self.config.targets, path_of(module))) and module.path[0] not in self.heads
        return module.has_variable("params", A)

    def _adapted(self, module, x, y, block=(None, 0)):
        """y + scale drop(x) A B, or DoRA's; `block`: (keys of the rows, number of the layer), where it is part of one."""
        config, count, compute = self.config, len(module.inputs), module.precision.compute
        inputs, outputs = module.axes[:count], module.axes[count:]
        sizes_in, sizes_out = (tuple(size for _, size in side) for side in (module.inputs, module.outputs))
        bound = math.prod(sizes_in) ** -0.5
        start = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
        a = leaf(module, A, start, (*inputs, "rank"), (*sizes_in, config.rank))
        b = leaf(module, B, nn.initializers.zeros, ("rank", *outputs), (config.rank, *sizes_out))
        keys, layer = block
        if config.dropout and keys is not None:
            keys = jax.vmap(lambda key: jax.random.fold_in(key, FIRST_DRAW + layer))(keys)
            x = dropout(x, config.dropout, keys, zlib.crc32(path_of(module).encode()))
        # Never A B alone: the product with x first costs a sliver of the base's, and no gradient of W's size is formed.
        update = config.scale * contract(contract(x, a, count, compute), b, 1, compute, wide=True)
        if not config.dora:
            return (wide(y) + update).astype(y.dtype)
        # Zeros stand for what `start` measures.
        magnitude = leaf(module, MAGNITUDE, nn.initializers.zeros, outputs, sizes_out)
        read = lambda name: nn.unbox(module.get_variable("params", name))
        length = lengths(*updated(read("kernel"), a, b, config.scale))
        bias = wide(read("bias")) if module.bias else 0.0
        return (bias + magnitude / length * (wide(y) - bias + update)).astype(y.dtype)

    def effective(self, params):
        return super().effective(self.merged(params)[1])

    def merged(self, params: Params) -> tuple[Objective, Params]:
        """(the inner objective, its parameters with the updates merged into the kernels). Differentiable."""
        own, base = paths.split(params, self.owns)
        return self.inner, _laid(base, own, self._merge)

    def unmerged(self, base: Params, params: Params) -> Params:
        """The inverse of `merged`: updates of `params` are taken out of the kernels of `base` and stand beside them again.

        ValueError with DoRA, where merging forgets the length of W + scale A B.
        """
        if self.config.dora:
            raise ValueError("DoRA cannot be unmerged: keep the parameters from before")
        own, _ = paths.split(params, self.owns)
        apart = _laid(base, own, lambda kernel, found: updated(kernel, found[A], found[B], -self.config.scale)[0])
        return paths.merge(apart, own)

    def _merge(self, kernel, found):
        """In float32 or wider"""
        whole, axes = updated(kernel, found[A], found[B], self.config.scale)
        if not self.config.dora:
            return whole
        return whole * jnp.expand_dims(found[MAGNITUDE] / lengths(whole, axes), axes)


def _laid(base: Params, own: Params, change) -> Params:
    """`base` with change(kernel, {name: leaf beside it}) for each kernel that has leaves beside it, rounded once."""
    beside = {}
    for path, found in paths.leaves(own):
        parent, _, name = path.rpartition("/")
        beside.setdefault(f"{parent}/kernel", {})[name] = found
    new = lambda path, kernel: change(kernel, beside[path]).astype(kernel.dtype) if path in beside else kernel
    return paths.map_leaves(new, base)


def updated(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> tuple[jax.Array, tuple[int, ...]]:
    """(kernel + scale A B in float32 or wider, which of its axes are inputs), of one layer or of a stack of them."""
    stacked = a.ndim + b.ndim - 2 - kernel.ndim
    lead, rank = kernel.shape[:stacked], a.shape[-1]
    left, right = wide(a).reshape(*lead, -1, rank), wide(b).reshape(*lead, rank, -1)
    update = jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST).reshape(kernel.shape)
    return wide(kernel) + scale * update, tuple(range(stacked, a.ndim - 1))


def lengths(kernel: jax.Array, inputs: tuple[int, ...]) -> jax.Array:
    """Of each output's column, without gradient (Liu et al. 2024, section 4.3); 1 where a column is zero."""
    found = jax.lax.stop_gradient(jnp.sqrt(jnp.square(kernel).sum(inputs)))
    return jnp.where(found > 0, found, 1)
