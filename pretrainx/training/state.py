"""The train state: what it holds, how it is laid over the devices, how it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from pretrainx.core import axes, paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.objectives.objective import Objective
from pretrainx.optim.optimizer import Optimizer
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules
from pretrainx.training import guard


@struct.dataclass
class TrainState:
    """Plain, unboxed arrays. The random streams are functions of (seed, step) and are not stored.

    Attributes:
      step: int32[], the number of batches consumed; it moves on skipped steps too.
      params, frozen: the trained leaves and the others, each a tree; merged they are the parameters.
      opt_state: of the trained leaves only.
      extras: all non-gradient state of the objective.
      ema: averaged `params`, or {}.
      guard: counters and the window of recent losses.
    """

    step: jax.Array
    params: paths.Tree
    frozen: paths.Tree
    opt_state: Any
    extras: paths.Tree
    ema: paths.Tree
    guard: paths.Tree

    def full_params(self, averaged: bool = False) -> paths.Tree:
        """All parameters; with `averaged`, the EMA of the trained ones where one is kept."""
        return paths.merge(self.frozen, self.ema if averaged and self.ema else self.params)


@dataclass(frozen=True)
class Layout:
    """What an objective's parameters and extras will be, found without computing any.

    Attributes:
      params, extras: trees of jax.ShapeDtypeStruct.
      params_axes, extras_axes: ((path, axis names), ...).
    """

    params: paths.Tree
    extras: paths.Tree
    params_axes: tuple
    extras_axes: tuple

    def parameters(self, vocab_size: int | None) -> int:
        """Number of parameters, the padded rows of vocabulary tables not counted; None where there is no vocabulary."""
        shapes, total = dict(paths.leaves(self.params)), 0
        for path, names in self.params_axes:
            sizes = zip(names, shapes[path].shape, strict=True)
            total += math.prod(vocab_size if name == "vocab" and vocab_size else size for name, size in sizes)
        return total

    def shardings(self, rules: Rules) -> tuple[paths.Tree, paths.Tree]:
        place = lambda tree, names: paths.map_leaves(
            lambda path, leaf: rules.sharding(dict(names)[path], leaf.shape), tree
        )
        return place(self.params, self.params_axes), place(self.extras, self.extras_axes)


def example_batch(objective: Objective, rows: int) -> dict:
    """A batch of zeros: initialisers read shapes only."""
    return jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), objective.batch_spec(rows))


def layout(objective: Objective, rows: int) -> Layout:
    """Shapes and axes of what `init` and `start` make. ValueError names a leaf without logical axes."""

    def make():
        batch = example_batch(objective, rows)
        key = jax.random.key(0)
        return objective.start(key, objective.init(key, batch), batch)

    params, extras = jax.eval_shape(make)
    return Layout(axes.unbox(params), axes.unbox(extras), axes.of_boxed(params), axes.of_boxed(extras))


def fallbacks(found: Layout, rules: Rules, limit_bytes: float = 2**30) -> list[str]:
    """A line for each leaf that a rule would split but whose size does not divide: it is replicated in that dimension.

    Raises ConfigError where the leaf is larger than `limit_bytes`.
    """
    lines = []
    for tree, table in ((found.params, found.params_axes), (found.extras, found.extras_axes)):
        shapes = dict(paths.leaves(tree))
        for path, names in table:
            leaf = shapes[path]
            trouble = rules.indivisible(names, leaf.shape)
            size = math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize if trouble else 0
            if size > limit_bytes:
                raise ConfigError(
                    f"{path} cannot be split over the mesh",
                    where="config.mesh",
                    why=f"{'; '.join(trouble)}: {size / 2**30:.2f} GiB would be replicated",
                    do="choose mesh sizes that divide the model's, or another model size",
                )
            if trouble:
                lines.append(f"{path}: {size} bytes kept whole on each device ({'; '.join(trouble)})")
    return lines


def averages(params: paths.Tree) -> paths.Tree:
    """Running averages as they start: copies, in float32 or wider, because in bfloat16 a small step changes nothing."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32), copy=True), params)


def abstract(objective: Objective, optimizer: Optimizer, options, found: Layout) -> TrainState:
    """The state as jax.ShapeDtypeStruct leaves with shardings: moments, averages and teachers lie like their parameters."""
    trained, frozen = paths.split(found.params, objective.trains)
    if not trained:
        raise ConfigError(
            "no parameter is trained",
            where="config.adapt",
            why=f"all {len(found.params_axes)} leaves are frozen",
            do="select some leaves to train",
        )
    opt_state = jax.eval_shape(optimizer.init, trained)
    params, extras = found.shardings(options.rules)
    whole = options.rules.replicated()
    like_params = paths.restrict(params, like=trained)
    counters = jax.eval_shape(lambda: guard.start(options.guard))
    pairs = TrainState(
        step=(jax.ShapeDtypeStruct((), jnp.int32), whole),
        params=(trained, like_params),
        frozen=(frozen, paths.restrict(params, like=frozen)),
        opt_state=(opt_state, optimizer.shardings(opt_state, trained, like_params, whole)),
        extras=(found.extras, extras),
        ema=(jax.eval_shape(averages, trained), like_params) if options.ema else ({}, {}),
        guard=(counters, jax.tree.map(lambda _: whole, counters)),
    )
    place = lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
    fields = {name: jax.tree.map(place, *getattr(pairs, name)) for name in TrainState.__dataclass_fields__}
    return TrainState(**fields)


def create(
    objective: Objective,
    optimizer: Optimizer,
    options,
    found: Layout,
    rows: int,
    restored: dict[str, Any] | None = None,
    statistics: dict[str, Any] | None = None,
) -> TrainState:
    """A fresh state, made in one jitted call and born sharded.

    `restored` holds parameter leaves {path: array} of another run (`init_from`): they take the place of the initial ones
    before `start` runs, and what they replace is never computed. `statistics` holds leaves of extras, laid over what `start`
    made.
    """

    def make(given, statistics):
        batch = example_batch(objective, rows)
        params = objective.init(random.stream(options.seed, random.INIT), batch)
        replace = lambda path, leaf: leaf.replace_boxed(given[path]) if path in given else leaf
        params = paths.map_leaves(replace, params)
        params, extras = objective.start(random.stream(options.seed, random.START), params, batch)
        params, extras = axes.unbox(params), axes.unbox(extras)
        extras = paths.map_leaves(lambda path, leaf: statistics.get(path, leaf), extras)
        trained, frozen = paths.split(params, objective.trains)
        ema = averages(trained) if options.ema else {}
        zero = jnp.zeros((), jnp.int32)
        return TrainState(zero, trained, frozen, optimizer.init(trained), extras, ema, guard.start(options.guard))

    with options.rules.bound():
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(objective, optimizer, options, found))
        return distributed.settled(jax.jit(make, out_shardings=shardings)(restored or {}, statistics or {}))
