"""The parts of a run, made from its recipe: objective, rules, options, optimizer. Nothing is computed yet."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import jax

from pretrainx.adapt.wrapper import innermost
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled
from pretrainx.core.pairs import Pairs
from pretrainx.core.records import tokens_of
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.experts import ExpertsConfig
from pretrainx.objectives.objective import Objective
from pretrainx.objectives.over_steps import OverSteps
from pretrainx.optim.optimizer import Optimizer
from pretrainx.parallel.mesh import make_mesh
from pretrainx.parallel.pipeline import STAGE, inside, wanted_pieces
from pretrainx.parallel.rules import Rules
from pretrainx.runs import frozen_tokenizer, scaled
from pretrainx.runs.data import About
from pretrainx.runs.recipe import Recipe, check_batch
from pretrainx.training import state as states
from pretrainx.training.step import Options

UNITS = {"tok": "token", "img": "picture", "row": "example"}


@dataclass(frozen=True)
class Parts:
    """What the train step is made from.

    Attributes:
      of_text: whether rows are a corpus of text.
      unit: what rates count: "tok", "img", or "row" of labelled text.
      vocab_size: ids that are predicted, of models that know words; None for the others.
    """

    objective: Objective
    optimizer: Optimizer
    options: Options
    found: states.Layout
    rows_per_device: int
    of_text: bool
    unit: str
    vocab_size: int | None

    @property
    def rules(self) -> Rules:
        return self.options.rules

    @property
    def unit_name(self) -> str:
        """`unit` in a word."""
        return UNITS[self.unit]

    @property
    def units_per_row(self) -> float:
        """Tokens that a row of the batch brings (where tasks read rows of different widths, the mean), or one example."""
        return units_per_row(self.objective, self.unit)

    @property
    def parameters(self) -> int:
        """How many there are, the padding of vocabulary tables not counted."""
        return self.found.parameters(self.vocab_size)


def lay_out(recipe: Recipe, devices=None) -> tuple[Rules, int]:
    """(rules, rows per device and microbatch) over `devices` (default: all). ConfigError where mesh or batch do not fit."""
    rules = Rules(make_mesh(recipe.mesh, devices), config=recipe.sharding)
    check_experts(recipe, rules)
    return rules, check_batch(recipe, rules.batch_ways())


def check_experts(recipe: Recipe, rules: Rules) -> None:
    """ConfigError where there are no experts for the mesh axis `expert`, or not as many for each device along it."""
    ways, count = rules.mesh.shape["expert"], getattr(recipe.model, "experts", ExpertsConfig()).count
    if ways > 1 and (not count or count % ways):
        raise ConfigError(
            "the experts do not divide over the mesh axis 'expert'",
            where="config.mesh.expert",
            why=f"{count} experts over {ways} devices" if count else f"{ways} devices, and the model has no experts",
            do=f"--config.mesh.expert={math.gcd(count, ways) if count else 1}, and more of data or fsdp",
        )


def build(recipe: Recipe, about: About) -> Objective:
    """The objective of a recipe for data that say `about` themselves, in the wrappers of config.adapt and config.preserve."""
    return recipe.preserve.wrap(recipe.adapt.wrap(unwrapped(recipe, about)))


def unwrapped(recipe: Recipe, about: About) -> Objective:
    """The same without wrappers: what the pretrained model was, or is to be, trained for."""
    if isinstance(about, Vocabulary):
        return recipe.objective.build(recipe.model, about, recipe.data.length, recipe.precision, recipe.data.segmented)
    if isinstance(about, Pairs):
        return recipe.objective.build(recipe.model, about, recipe.data.length, recipe.data.captions, recipe.precision)
    if isinstance(about, Labelled):
        widths = recipe.data.length, recipe.data.target_length
        return recipe.objective.build(recipe.model, about, widths, recipe.precision)
    tokenizer = frozen_tokenizer.module_of(recipe, about)
    given = {"tokenizer": tokenizer} if tokenizer else {}
    config = recipe.objective
    config = config.over(recipe.train.steps) if isinstance(config, OverSteps) else config
    return config.build(recipe.model, about, recipe.precision, **given)


def assemble(recipe: Recipe, about: About, devices=None) -> Parts:
    """The parts of a recipe over `devices` (default: all). ConfigError where mesh, batch and model do not fit."""
    objective = build(recipe, about)
    rules, rows_per_device = lay_out(recipe, devices)
    check_tasks(objective, recipe, rules.batch_ways())
    check_groups(innermost(objective), recipe)
    options = Options(rules, recipe.seed, recipe.train.microbatches, recipe.ema.decay, recipe.guard)
    found = states.layout(objective, recipe.train.batch_size)
    check_stages(objective, recipe, rules, found)
    check_lengths(objective, rules, found, recipe.train.batch_size)
    schedule = recipe.schedule.over(recipe.train.steps)
    shapes = tuple((path, leaf.shape) for path, leaf in paths.leaves(found.params))
    mup = scaled.rules_of(recipe, found.params_axes)
    optimizer = Optimizer(recipe.optimizer, schedule, recipe.train.grad_clip, found.params_axes, shapes, mup)
    of_text = isinstance(about, Vocabulary)
    words = about if of_text else getattr(about, "vocabulary", None)
    return Parts(
        objective, optimizer, options, found, rows_per_device, of_text, unit_of(about), words and words.predicted
    )


def unit_of(about: About) -> str:
    """What rates count with data of this kind, a key of UNITS."""
    return "tok" if isinstance(about, Vocabulary) else "row" if isinstance(about, Labelled) else "img"


def units_per_row(objective: Objective, unit: str) -> float:
    """Tokens that a row of the batch brings (where tasks read rows of different widths, the mean), or one example."""
    return tokens_of(objective.reads) if unit == "tok" else 1


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
                    why=f"{leaf.shape[0]} of {rows} rows over {unit} pieces (data x fsdp x expert x stage ways, microbatches)",
                    do="a larger batch, or a smaller config.mesh or config.train.microbatches",
                )


def check_groups(objective: Objective, recipe: Recipe) -> None:
    """ConfigError where BatchNorm's groups do not divide the rows that go through the network at once."""
    key, network = ("image.", recipe.model.image) if hasattr(recipe.model, "image") else ("", recipe.model)
    group = getattr(network, "batch_group", 0)
    rows = recipe.train.batch_size // recipe.train.microbatches
    for views in getattr(objective, "passes", (1,)):
        if group and rows * views % group:
            raise ConfigError(
                "BatchNorm's groups do not divide the rows that it sees",
                where=f"config.model.{key}batch_group",
                why=f"groups of {group}, but {rows * views} rows at once: {recipe.train.batch_size} rows in "
                f"{recipe.train.microbatches} microbatches, {views} view(s) of each together",
                do=f"--config.model.{key}batch_group={math.gcd(group, rows * views)}, another batch, or 0 for all rows",
            )


def check_lengths(objective: Objective, rules: Rules, found: states.Layout, rows: int) -> None:
    """ConfigError where attention meets rows whose length the mesh does not divide. Which there are, the model is asked."""
    ways = math.prod(rules.mesh.shape[axis] for axis in rules.axes("length"))
    if ways == 1:
        return
    if not any("layers" in names for _, names in found.params_axes):
        raise ConfigError(
            "there is no length to lay over the mesh axis 'context'",
            where="config.mesh.context",
            why=f"{ways} devices, and the model has no attention: all of them would do the same work",
            do="--config.mesh.context=1, and more of data or fsdp",
        )

    def encode(params, extras):
        batch = states.example_batch(objective, rows)
        keys = objective.row_keys(jax.random.key(0), batch)
        with dataclasses.replace(rules, strict=True).bound():
            observation = objective.observe_rows(keys, batch, 0)
            return objective.encode(params, extras, observation, keys, 0, train=True).totals

    jax.eval_shape(encode, found.params, found.extras)


def check_stages(objective: Objective, recipe: Recipe, rules: Rules, found: states.Layout) -> None:
    """ConfigError where layers do not divide over the stages of a pipeline, or rows over its pieces."""
    stages, rounds, pieces = rules.mesh.shape[STAGE], rules.config.rounds, wanted_pieces(rules)
    if stages == 1:
        return
    shapes = dict(paths.leaves(found.params))
    depths = {path: shapes[path].shape[names.index("layers")] for path, names in found.params_axes if "layers" in names}
    odd = next((path for path, depth in depths.items() if depth % (stages * rounds)), None)
    if odd or not depths:
        over = f"{stages} stages x {rounds} rounds" if rounds > 1 else f"{stages} stages"
        fewer = math.gcd(stages, *depths.values()) if odd else 1
        change = f"mesh.stage={fewer}" if fewer < stages else "sharding.rounds=1"
        raise ConfigError(
            "the layers do not divide over the stages of a pipeline",
            where="config.mesh.stage",
            why=f"{depths[odd]} of {odd} over {over}" if odd else "the model has no stack of equal layers",
            do=f"--config.{change}, or another depth" if odd else f"--config.{change}",
        )
    if rounds > 1 and pieces % stages:
        raise ConfigError(
            "the circular schedule takes as many pieces at a time as there are stages",
            where="config.sharding.microbatches",
            why=f"{pieces} pieces, {stages} stages",
            do=f"--config.sharding.microbatches={-(-pieces // stages) * stages}, or --config.sharding.rounds=1",
        )
    ways, parts = inside(rules).batch_ways(), recipe.train.microbatches
    for path, leaf in paths.leaves(objective.batch_spec(recipe.train.batch_size)):
        if path.split("/")[-1] == "valid" and leaf.shape[0] % (ways * parts * pieces):
            raise ConfigError(
                "the rows do not divide over the pieces of a pipeline",
                where="config.sharding.microbatches",
                why=f"{leaf.shape[0]} rows in {parts} microbatches of {pieces} pieces, each over {ways} groups of devices",
                do="a batch that is a multiple of all three, fewer pieces, or a smaller config.train.microbatches",
            )
