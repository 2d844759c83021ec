"""Wrappers that insert parameters into the modules of a model, inside scan and remat: the one place where methods are
intercepted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from pretrainx.adapt.wrapper import Frozen
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.models.layers import Linear
from pretrainx.models.stack import Block

# (call, arguments, keyword arguments, context) -> result, as Flax hands them over.
Interceptor = Callable[[Callable, tuple, dict, Any], Any]


def intercepted(interceptor: Interceptor) -> contextlib.AbstractContextManager:
    """Inside it, methods of modules go through the interceptor."""
    return nn.intercept_methods(interceptor)


def leaf(module: nn.Module, name: str, start: Callable, names: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
    """A parameter inserted into `module`, made where the model is initialised and read elsewhere.

    In float32 or wider, since it is trained: a frozen base may be stored in bfloat16.
    """
    if module.has_variable("params", name):
        return nn.unbox(module.get_variable("params", name))
    dtype = jnp.promote_types(module.precision.params, jnp.float32)
    return module.param(name, nn.with_logical_partitioning(start, names), shape, dtype)


def path_of(module: nn.Module) -> str:
    return "/".join(module.path)


def in_block(module: nn.Module) -> bool:
    """Whether the module is part of one of the parts of a transformer block: of its attention, say."""
    return type(getattr(module.parent, "parent", None)) is Block


@dataclass(frozen=True)
class Inserted(Frozen):
    """Adds leaves named `PREFIX...` beside those of modules; the base's own are those that the inner objective makes.

    Modules are chosen where the model is initialised. Elsewhere what stands in the parameters says where something is
    inserted: a teacher in the extras that is a copy of them is adapted as they are, a network that is no part of them is not.
    """

    @property
    def prefix(self) -> str:
        """What the names of the leaves begin with."""
        raise TypeError(f"{type(self).__name__} must name its leaves")

    def interceptor(self) -> Interceptor:
        raise TypeError(f"{type(self).__name__} must insert something")

    def refusal(self, dense: list[str]) -> ConfigError:
        """The error where nothing was inserted into a model with these dense layers."""
        return ConfigError(
            f"{type(self).__name__} finds no place in the model",
            where="config.adapt.name",
            why="the model has no transformer blocks, or in them nothing that it stands beside: a mixture of experts is none",
            do="--config.adapt.name=full",
        )

    def scope(self, params):
        return intercepted(self.interceptor())

    def owns(self, path: str) -> bool:
        return path.split("/")[-1].startswith(self.prefix)

    def adapts(self, path):
        return self.owns(path) or super().adapts(path)

    def effective(self, params):
        return super().effective(paths.split(params, self.owns)[1])

    def init(self, key, batch):
        base, dense = self.inner.init(key, batch), []
        if twice := [path for path, _ in paths.leaves(base) if self.owns(path)]:
            raise ConfigError(
                f"{type(self).__name__} stands around another one",
                where=twice[0],
                why="both would have the same names for their parameters",
                do="merge the inner one into the model first",
            )

        def record(call, args, kwargs, context):
            if type(context.module) is Linear:
                dense.append(path_of(context.module))
            return call(*args, **kwargs)

        with intercepted(record), self.scope(base):
            patched = self.inner.init(jax.random.fold_in(key, 1), batch)
        if not any(self.owns(path) for path, _ in paths.leaves(patched)):
            raise self.refusal(sorted(set(dense)))
        # New leaves only: inside a scan they would change the base's own initial values.
        return paths.merge(patched, base)
