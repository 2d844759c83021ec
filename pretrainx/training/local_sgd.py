"""Local SGD for slow links: replicas take steps of their own and meet now and then (Stich 2019; DiLoCo, Douillard et al. 2023).

Algorithm 1 of DiLoCo: from the same point each replica takes `every` train steps on its rows of the batch, with its own
optimizer; then the outer optimizer, SGD with Nesterov momentum, descends along the difference between that point and the mean
of what the replicas reached. Replicas lie along the mesh axis `data`. An inner step has no collective over it; the outer step
is a program of its own and has the only ones.

The state is an ordinary TrainState: `params` are the outer ones (what is evaluated, saved and exported), and the replicas are
part of its `opt_state`. So checkpoints, evaluation and the loop need to know nothing of this. How many replicas there are is
said in the config and not taken from the mesh: a run goes on, with the same numbers, on another number of devices.

Each replica normalises its loss by the weights of its own rows, and the mean over replicas is plain, as in both papers. Where
every replica's rows weigh the same, `every=1, rate=1, momentum=0` around SGD without momentum is data parallelism. Where
weights are uneven (masked tokens) it is not: it descends along the mean of the replicas' losses, in which a replica with
little to recover counts as much as another. Nor is it where rows are compared with all others of the batch, as contrastive
objectives do: a replica's rows meet its own alone, which are fewer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from pretrainx.adapt.mixture import plain_tasks
from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.optim.optimizer import Optimizer
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain
from pretrainx.training import guard
from pretrainx.training.state import Layout, TrainState, averages
from pretrainx.training.step import Options, train_step

AXIS = "data"  # of the mesh: the slow link


@dataclass(frozen=True)
class LocalSgdConfig:
    """Attributes:
    every: inner steps between two outer ones; 0 is off: every step is taken by all devices together.
    replicas: how many train apart; config.mesh.data must divide it.
    rate, momentum: of the outer SGD with Nesterov momentum, on the mean difference. 1 and 0 take the replicas' mean.
    """

    every: int = field(default=0, metadata={"min": 0})
    replicas: int = field(default=2, metadata={"min": 1})
    rate: float = field(default=0.7, metadata={"above": 0})
    momentum: float = field(default=0.9, metadata={"min": 0, "max": 0.999999})


@dataclass(frozen=True)
class LocalOptimizer(Optimizer):
    """An optimizer whose state also holds the replicas, {"replicas": {params, optimizer, guard}, "outer": momentum}.

    Leaves of `replicas` have a leading axis of so many, sharded over the mesh axis `data`. `update` is the inner one's.
    """

    local: LocalSgdConfig = LocalSgdConfig()
    guard: guard.GuardConfig = guard.GuardConfig()

    @property
    def inner(self) -> Optimizer:
        """What each replica descends with."""
        return Optimizer(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Optimizer)})

    @property
    def outer(self) -> optax.GradientTransformation:
        return optax.sgd(self.local.rate, self.local.momentum or None, nesterov=True)

    def init(self, params: paths.Tree) -> dict[str, Any]:
        """All replicas at `params`, with fresh optimizers."""
        one = {"params": params, "optimizer": super().init(params), "guard": guard.start(self.guard)}
        return {"replicas": copies(one, self.local.replicas), "outer": self.outer.init(averages(params))}

    def learning_rate(self, state) -> jax.Array:
        """float[replicas]: of the inner optimizers; a replica that skips a step stays behind."""
        return jax.vmap(super().learning_rate)(state["replicas"]["optimizer"])

    def shardings(self, state, params, params_shardings, other):
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state["replicas"])
        place = lambda tree: super(LocalOptimizer, self).shardings(tree, params, params_shardings, other)
        return {"replicas": jax.tree.map(over_replicas, place(one)), "outer": place(state["outer"])}


def copies(tree: Any, replicas: int) -> Any:
    """Each leaf `replicas` times, along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (replicas, *jnp.shape(leaf))), tree)


def over_replicas(sharding: NamedSharding) -> NamedSharding:
    """The same with a leading axis of replicas."""
    return NamedSharding(sharding.mesh, PartitionSpec(AXIS, *sharding.spec))


def within_replica(rules: Rules) -> Rules:
    """The rules that one replica's step is bound to: on the slow axis lie `replicas` alone."""
    rules = rules.without(AXIS)
    return dataclasses.replace(rules, table=(*rules.table, ("replicas", (AXIS,))))


@dataclass(frozen=True)
class _Replica(Wrapper):
    """The objective as one replica sees it: its rows keep the keys that they have in the whole batch."""

    number: Any  # int32[], traced
    replicas: int

    def row_keys(self, key, batch):
        rows = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.replicas * leaf.shape[0], *leaf.shape[1:]), leaf.dtype), batch
        )
        own = lambda keys: keys.reshape(self.replicas, -1)[self.number]
        return jax.tree.map(own, self.inner.row_keys(key, rows))


def inner_step(objective: Objective, optimizer: LocalOptimizer, options: Options, state: TrainState, batch: Batch):
    """(state, batch) -> (state', metrics of each replica). Replica r takes `train_step` on the r-th part of the rows.

    The outer parameters stay. Metrics are those of `train_step` with a leading axis of replicas.
    """
    replicas = optimizer.local.replicas
    options = dataclasses.replace(options, rules=within_replica(options.rules))

    def own_rows(leaf):
        rows = leaf.reshape(replicas, leaf.shape[0] // replicas, *leaf.shape[1:])
        return constrain(rows, "replicas", "batch", *[None] * (rows.ndim - 2))

    def step(number, mine, rows):
        own = state.replace(params=mine["params"], opt_state=mine["optimizer"], guard=mine["guard"])
        own, metrics = train_step(_Replica(objective, number, replicas), optimizer.inner, options, own, rows)
        return {"params": own.params, "optimizer": own.opt_state, "guard": own.guard}, metrics

    with options.rules.bound():
        batch = jax.tree.map(own_rows, batch)
    # With the axis named, a constraint inside the step holds each replica's part where the replica lies.
    in_all = jax.vmap(step, spmd_axis_name=AXIS)
    moved, metrics = in_all(jnp.arange(replicas), state.opt_state["replicas"], batch)
    return state.replace(step=state.step + 1, opt_state=state.opt_state | {"replicas": moved}), metrics


def outer_step(optimizer: LocalOptimizer, state: TrainState) -> TrainState:
    """The replicas meet: the outer parameters take one step along the mean difference, and all replicas start from there.

    Inner optimizers keep what they have, as in DiLoCo. The guard of the state counts the replicas' skipped steps, up to here:
    those since are in the replicas' own guards, and a run that resumes from the middle of a round tells of them again.
    """
    moved, replicas = state.opt_state["replicas"], optimizer.local.replicas
    wide = averages(state.params)
    mean = jax.tree.map(lambda each, like: each.astype(like.dtype).mean(0), moved["params"], wide)
    gradient = jax.tree.map(jnp.subtract, wide, mean)
    updates, momentum = optimizer.outer.update(gradient, state.opt_state["outer"], wide)
    params = jax.tree.map(lambda new, old: new.astype(old.dtype), optax.apply_updates(wide, updates), state.params)
    opt_state = {"replicas": moved | {"params": copies(params, replicas)}, "outer": momentum}
    return state.replace(params=params, opt_state=opt_state, guard=state.guard | counts(moved["guard"]))


def report(metrics: dict) -> dict:
    """What the replicas measured, as one: `per_row` in row order, all skipped steps, the longest streak, means of the rest."""
    means = {name: value.mean(0) for name, value in metrics.items() if name != "per_row"}
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), metrics["per_row"])
    return means | counts(metrics) | {"per_row": rows}


def counts(counters: dict) -> dict[str, jax.Array]:
    """Skipped steps of all replicas together, and the longest streak of them."""
    return {"skipped": counters["skipped"].sum(dtype=jnp.int32), "streak": counters["streak"].max()}


class LocalStep:
    """The step of (state, batch) with the call of `TrainStep`: an inner step, and after every `every`-th an outer one.

    The state passed in is donated. `reports(step)` says after which steps metrics are looked at; only these cross the slow
    link, in a program of their own. After the others `metrics` is {"loss": float[replicas]}, each where its replica is.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: LocalOptimizer,
        options: Options,
        state: TrainState,
        reports: Callable[[int], bool] = lambda step: True,
    ):
        self.optimizer, self.reports, self.traces = optimizer, reports, 0
        self.done, self.newest = 0, None  # steps behind the state that was returned last, and its `step`
        whole = options.rules.replicated()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

        def counted(state, batch):
            self.traces += 1
            return inner_step(objective, optimizer, options, state, batch)

        self.inner = jax.jit(counted, donate_argnums=0, out_shardings=(shardings, over_replicas(whole)))
        self.outer = jax.jit(outer_step, static_argnums=0, donate_argnums=1, out_shardings=shardings)
        self.report = jax.jit(report, out_shardings=whole)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        # The host decides which program comes next. It reads the step of a state that is not its own last one; reading it
        # each time would wait for the devices each time.
        done = 1 + (self.done if state.step is self.newest else int(state.step))
        state, metrics = distributed.settled(self.inner(state, batch))
        if done % self.optimizer.local.every == 0:
            state = distributed.settled(self.outer(self.optimizer, state))
        self.done, self.newest = done, state.step
        return state, distributed.settled(self.report(metrics)) if self.reports(done) else {"loss": metrics["loss"]}

    def lower(self, state: TrainState, batch: Batch):
        """The inner step, which is what all but one of `every` are made of."""
        return self.inner.lower(state, batch)


def compares(objective: Objective) -> bool:
    """Whether rows are scored together with the others of the batch; of a replica these are its own."""
    return any(type(task).couple is not Objective.couple for task in plain_tasks(objective))


def check(
    config: LocalSgdConfig,
    objective: Objective,
    found: Layout,
    options: Options,
    rows: int,
    steps: int,
    eval_every: int = 0,
) -> None:
    """ConfigError where a run of so many rows a batch, and so many steps, cannot be trained by replicas."""
    ways = options.rules.mesh.shape[AXIS]
    unit = config.replicas * within_replica(options.rules).batch_ways() * options.microbatches
    uneven = [leaf.shape[0] for leaf in jax.tree.leaves(objective.batch_spec(rows)) if leaf.shape[0] % unit]
    if config.replicas % ways:
        raise ConfigError(
            "the replicas do not divide over the mesh",
            where="config.local_sgd.replicas",
            why=f"{config.replicas} replicas, and config.mesh.{AXIS} comes to {ways}",
            do=f"--config.local_sgd.replicas={ways}, a multiple of it, or another config.mesh.{AXIS}",
        )
    if uneven:
        raise ConfigError(
            "the batch does not divide over the replicas",
            where="config.train.batch_size",
            why=f"{uneven[0]} rows over {unit} pieces: {config.replicas} replicas, and in each fsdp ways and microbatches",
            do=f"--config.train.batch_size={max(unit, rows - rows % unit)}, or other config.local_sgd.replicas",
        )
    if steps % config.every:
        raise ConfigError(
            "the run would end between two outer steps",
            where="config.train.steps",
            why=f"{steps} is no multiple of config.local_sgd.every={config.every}: what replicas learn after the last is lost",
            do=f"--config.train.steps={max(config.every, steps - steps % config.every)}, or another config.local_sgd.every",
        )
    if eval_every % config.every:
        raise ConfigError(
            "parameters would be evaluated between two outer steps",
            where="config.train.eval_every",
            why=f"{eval_every} is no multiple of config.local_sgd.every={config.every}: since the last they are the same",
            do=f"--config.train.eval_every={-(-eval_every // config.every) * config.every}, or 0: at the end only",
        )
    forms = [getattr(getattr(task, "config", None), "form", "") for task in plain_tasks(objective)]
    if "ring" in forms and within_replica(options.rules).batch_ways() > 1:  # a vmap of a shard_map over some axes, too
        raise ConfigError(
            "the rows of replicas do not travel",
            where="config.objective.form",
            why="a step of many replicas cannot be compiled where a replica's rows go around its devices",
            do="--config.objective.form=rows",
        )
    if options.rules.mesh.shape["stage"] > 1:  # JAX 0.10.2 cannot lower a vmap of a shard_map over some of the axes
        raise ConfigError(
            "replicas are no pipelines",
            where="config.mesh.stage",
            why="a step of many replicas cannot be compiled where its layers are a pipeline",
            do="--config.mesh.stage=1, and more of fsdp or tensor",
        )
    if any("experts" in names for _, names in found.params_axes):
        raise ConfigError(
            "replicas are no mixtures of experts",
            where="config.model.experts.count",
            why="the compiler gathers what a top-k routing chooses from over all replicas, in every step",
            do="--config.local_sgd.every=0, or --config.model.experts.count=0",
        )
    if options.ema:
        raise ConfigError(
            "replicas keep no averaged parameters",
            where="config.ema.decay",
            why="between outer steps there is no one set of parameters to average",
            do="--config.ema.decay=0: outer steps average by themselves",
        )
    if extras := [path for path, _ in paths.leaves(found.extras)]:
        raise ConfigError(
            "the objective keeps state beside its parameters, and each replica would have another",
            where="config.local_sgd.every",
            why=f"{len(extras)} leaves, such as {extras[0]}: statistics, queues and teachers have no mean that is one",
            do="--config.local_sgd.every=0, or an objective without such state",
        )
