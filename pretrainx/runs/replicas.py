"""Runs whose replicas train apart (config.local_sgd): their optimizer, and the step that goes with it."""

from __future__ import annotations

import dataclasses

from jax.stages import Traced

from pretrainx.objectives.objective import Batch
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe
from pretrainx.training import local_sgd
from pretrainx.training.loop import LoopConfig
from pretrainx.training.state import TrainState
from pretrainx.training.step import TrainStep, make_train_step


def in_replicas(recipe: Recipe, parts: Parts) -> Parts:
    """The parts of a run with the optimizer that holds its replicas; as they are where config.local_sgd is off."""
    config = recipe.local_sgd
    if not config.every:
        return parts
    train = recipe.train
    sizes = train.batch_size, train.steps, train.eval_every
    local_sgd.check(config, parts.objective, parts.found, parts.options, *sizes)
    inner = {each.name: getattr(parts.optimizer, each.name) for each in dataclasses.fields(parts.optimizer)}
    return dataclasses.replace(parts, optimizer=local_sgd.LocalOptimizer(**inner, local=config, guard=recipe.guard))


def warnings(parts: Parts) -> list[str]:
    """What replicas compute otherwise than all devices together would, so that it is a choice."""
    if not isinstance(parts.optimizer, local_sgd.LocalOptimizer) or not local_sgd.compares(parts.objective):
        return []
    count = parts.optimizer.local.replicas
    return [
        f"config.local_sgd: the objective compares rows, and a replica's meet its own alone, one in {count} of the batch"
    ]


def traced(step: TrainStep | local_sgd.LocalStep, state: TrainState, batch: Batch) -> Traced:
    """The step as JAX sees it before compiling; of replicas the inner one, which is what all but one of `every` are."""
    if isinstance(step, local_sgd.LocalStep):
        return step.inner.trace(state, batch)
    return step.jitted.trace(*step.static, state, batch)


def step_of(parts: Parts, state: TrainState, train: LoopConfig | None = None) -> TrainStep | local_sgd.LocalStep:
    """The train step of a run. With `train`, replicas add up what they measured only for the steps that the loop logs."""
    given = parts.objective, parts.optimizer, parts.options, state
    if not isinstance(parts.optimizer, local_sgd.LocalOptimizer):
        return make_train_step(*given)
    if train is None:
        return local_sgd.LocalStep(*given)
    return local_sgd.LocalStep(*given, train.logs)
