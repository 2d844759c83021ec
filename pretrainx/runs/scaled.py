"""Whether a run may be scaled from a base model (config.model.base_width, base_depth), and its optimizer's rules then."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.models.stack import StackConfig
from pretrainx.optim import mup
from pretrainx.runs import recipe as known
from pretrainx.runs.recipe import OF_LABELLED, OF_TEXT, Recipe

# Whose heads the models scale. Others put matrices of widths of their own behind a network.
OBJECTIVES = (*OF_TEXT, *OF_LABELLED, "classification")
ADAPTED = ("full", "lora", "prompt")
KEYS = ("base_width", "base_depth", "base_head_dim")
OFF = " ".join(f"--config.model.{key}=0" for key in KEYS)


def rules_of(recipe: Recipe, leaves: tuple[tuple[str, axes.Names], ...]) -> mup.Mup:
    """The optimizer's rules for a recipe's parameters ((path, axis names), ...). ConfigError for what they do not cover."""
    for where, key in bases(recipe.model, "config.model"):
        if where != "config.model":
            raise ConfigError(
                "a tower of several is not scaled from a base",
                where=f"{where}.{key}",
                why="its vectors go through matrices of other widths",
                do=f"--{where}.{key}=0",
            )
        refuse_others(recipe)
    if not isinstance(recipe.model, StackConfig):
        return mup.Mup()
    found = mup.Mup(recipe.model.wider, recipe.model.deeper)
    if recipe.model.base_width or recipe.model.base_depth:
        mup.check(recipe.optimizer, leaves)
    return found


def bases(config, where: str) -> Iterator[tuple[str, str]]:
    """(section, key) wherever a base is named."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name in KEYS and isinstance(config, StackConfig) and value:
            yield where, each.name
        if dataclasses.is_dataclass(value):
            yield from bases(value, f"{where}.{each.name}")


def refuse_others(recipe: Recipe) -> None:
    """ConfigError where part of a run has no rule."""
    model, named = recipe.model, lambda section: f"it is a {type(section).__name__.removesuffix('Config')}"
    of = lambda table, config: next((name for name, kind in table.items() if type(config) is kind), "")
    for wrong, what, where, why, do in (
        (
            model.base_head_dim and not model.base_width,
            "heads that grow belong to a model that grows",
            "config.model.base_head_dim",
            "base_width is 0",
            "--config.model.base_width=N, the width that was tuned, or --config.model.base_head_dim=0",
        ),
        (
            of(known.OBJECTIVES, recipe.objective) not in OBJECTIVES,
            "the objective puts matrices behind the network for which muP has no rule here",
            "config.objective.name",
            named(recipe.objective),
            f"one of {', '.join(OBJECTIVES)}; or {OFF}",
        ),
        (
            of(known.METHODS, recipe.adapt) not in ADAPTED or (getattr(recipe.adapt, "dora", False)),
            "muP has no rule for what is inserted",
            "config.adapt.name",
            named(recipe.adapt),
            f"one of {', '.join(ADAPTED)} (without dora); or {OFF}",
        ),
        (
            of(known.PRESERVING, recipe.preserve) != "none",
            "muP has no rule for a second loss on the parameters",
            "config.preserve.name",
            named(recipe.preserve),
            f"--config.preserve.name=none, or {OFF}",
        ),
        (
            model.base_width and getattr(model, "pool", "") == "map",
            "muP has no rule for the attention that makes the feature",
            "config.model.pool",
            "it is 'map'",
            "--config.model.pool=mean or class",
        ),
        (
            model.base_depth and not model.norm_first,
            "depth is compensated where norms come first",
            "config.model.norm_first",
            "it is False: a norm of each sum takes back what its branch was divided by",
            "--config.model.norm_first=True, or --config.model.base_depth=0",
        ),
        (
            model.base_depth and getattr(model, "smaller_residual", False),
            "two rules make what deep blocks add smaller",
            "config.model.smaller_residual",
            f"base_depth is {model.base_depth}",
            "--config.model.smaller_residual=False, or --config.model.base_depth=0",
        ),
    ):
        if wrong:
            raise ConfigError(what, where=where, why=why, do=do)


def refuse_multipliers(model) -> None:
    """ConfigError for a model with factors that files of other libraries have no place for."""
    if isinstance(model, StackConfig) and (model.readout, model.deeper, model.grown) != (1, 1, 1):
        raise ConfigError(
            "a model that is scaled from a base has no form there",
            where="config.model.base_width",
            why=f"logits times {model.readout:.4g}, branches divided by {model.deeper:.4g}, scores times {model.grown:.4g}",
            do="keep the run's own directory: pretrainx eval, generate and embed read it",
        )
