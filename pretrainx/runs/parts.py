"""The parts of a run, made from its recipe: objective, rules, options, optimizer. Nothing is computed yet."""

from __future__ import annotations

from dataclasses import dataclass

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import tokens_of
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.objective import Objective
from pretrainx.optim.optimizer import Optimizer
from pretrainx.parallel.mesh import make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.runs.recipe import Recipe, check_batch
from pretrainx.training import state as states
from pretrainx.training.step import Options


@dataclass(frozen=True)
class Parts:
    """What the train step is made from."""

    objective: Objective
    optimizer: Optimizer
    options: Options
    found: states.Layout
    rows_per_device: int

    @property
    def rules(self) -> Rules:
        return self.options.rules

    @property
    def tokens_per_row(self) -> float:
        """Tokens that a row of the batch brings; where tasks read rows of different widths, the mean."""
        return tokens_of(self.objective.reads)


def lay_out(recipe: Recipe, devices=None) -> tuple[Rules, int]:
    """(rules, rows per device and microbatch) over `devices` (default: all). ConfigError where mesh or batch do not fit."""
    rules = Rules(make_mesh(recipe.mesh, devices))
    used = {axis for _, axes in rules.table for axis in axes}
    for axis, size in rules.mesh.shape.items():
        if size > 1 and axis not in used:
            raise ConfigError(
                f"nothing is laid over the mesh axis {axis!r}",
                where=f"config.mesh.{axis}",
                why=f"size {size}, but no sharding rule names it: every device along it would do the same work",
                do=f"--config.mesh.{axis}=1",
            )
    return rules, check_batch(recipe, rules.batch_ways())


def assemble(recipe: Recipe, vocabulary: Vocabulary, devices=None) -> Parts:
    """The parts of a recipe over `devices` (default: all). ConfigError where mesh, batch and model do not fit."""
    objective = recipe.objective.build(
        recipe.model, vocabulary, recipe.data.length, recipe.precision, recipe.data.segmented
    )
    rules, rows_per_device = lay_out(recipe, devices)
    check_tasks(objective, recipe, rules.batch_ways())
    options = Options(rules, recipe.seed, recipe.train.microbatches, recipe.ema.decay, recipe.guard)
    found = states.layout(objective, recipe.train.batch_size)
    schedule = recipe.schedule.over(recipe.train.steps)
    optimizer = Optimizer(recipe.optimizer, schedule, recipe.train.grad_clip, found.params_axes)
    return Parts(objective, optimizer, options, found, rows_per_device)


def check_tasks(objective: Objective, recipe: Recipe, ways: int) -> None:
    """ConfigError where the rows of one task of several do not divide over devices and microbatches."""
    evaluated = recipe.evals.batch_size or recipe.train.batch_size
    for key, rows, unit in (
        ("train.batch_size", recipe.train.batch_size, ways * recipe.train.microbatches),
        ("evals.batch_size", evaluated, ways),
    ):
        for path, leaf in paths.leaves(objective.batch_spec(rows)):
            task, _, field = path.rpartition("/")
            if task and field == "valid" and leaf.shape[0] % unit:
                raise ConfigError(
                    f"the rows of the task {task!r} do not divide over the mesh",
                    where=f"config.{key}",
                    why=f"{leaf.shape[0]} of {rows} rows over {unit} pieces (data x fsdp ways and microbatches)",
                    do="a larger batch, or a smaller config.mesh or config.train.microbatches",
                )
