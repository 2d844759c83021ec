"""One model at several widths, and its train step at any rate: what the checks of a parametrisation are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.data.loader import place
from pretrainx.models.stack import StackConfig
from pretrainx.runs.data import Prepared, prepare
from pretrainx.runs.load import data_directory
from pretrainx.runs.parts import Parts, assemble
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.training import state as states
from pretrainx.training.step import train_step

OFF = {"base_width": 0, "base_head_dim": 0, "base_depth": 0, "zero_init": False}


def resized(values: dict[str, Any], width: int) -> dict[str, Any]:
    """A config's values at another width: heads keep their width and grow in number, as the MLP grows; with
    config.model.base_head_dim the heads grow instead. ConfigError where the width does not divide so."""
    recipe = parse(values)
    model = recipe.model
    if not isinstance(model, StackConfig):
        raise ConfigError(
            "the model is not one stack of blocks, so it has no one width",
            where="config.model.name",
            why=f"it is a {type(model).__name__.removesuffix('Config')}",
            do="--config.model.name=decoder, encoder, encoder_decoder or vit",
        )
    changes = {"width": width}
    growing = ("head_dim", "mlp_width") if model.base_head_dim else ("heads", "kv_heads", "mlp_width")
    for name in growing:
        size, rest = divmod(getattr(model, name) * width, model.width)
        if rest or getattr(model, name) and not size:
            raise ConfigError(
                f"the model of width {width} has no whole number for config.model.{name}",
                where="--widths",
                why=f"config.model has width {model.width} and {name} {getattr(model, name)}",
                do=f"widths that are multiples of {model.width // max(getattr(model, name), 1)}",
            )
        changes[name] = size
    changed = copy.deepcopy(values)
    changed.setdefault("model", {}).update(changes)
    return changed


def standard(values: dict[str, Any]) -> dict[str, Any]:
    """The same values in the standard parametrisation."""
    changed = copy.deepcopy(values)
    changed.setdefault("model", {}).update(OFF)
    return changed


def data_of(recipe: Recipe, workdir: Path, say: Callable[[str], None]) -> Prepared:
    """The data of a config, prepared in a directory where they are not yet."""
    return prepare(recipe.data, data_directory(recipe, workdir), say)


def rows_of(data: Prepared, recipe: Recipe, parts: Parts):
    """Batches by their step, as the run of this config reads them."""
    return data.training_rows(parts.objective.reads, recipe.train.batch_size, recipe.seed)


@dataclass(frozen=True)
class Trainer:
    """A model's train step with the learning rate as an argument, so that one program serves all rates.

    Attributes:
      recipe, parts: of the run that this is.
      flat: the rate stays as it is given; otherwise it is the peak of config.schedule.
    """

    recipe: Recipe
    parts: Parts
    flat: bool = False

    def start(self) -> states.TrainState:
        parts = self.parts
        rows = self.recipe.train.batch_size
        return states.create(parts.objective, parts.optimizer, parts.options, parts.found, rows)

    def step(self) -> Callable:
        """(state, batch, rate) -> (state, loss)"""
        parts, peak = self.parts, self.recipe.schedule.peak
        planned = (lambda count: 1.0) if self.flat else (lambda count: parts.optimizer.schedule(count) / peak)

        def apply(state, batch, rate):
            optimizer = replace(parts.optimizer, schedule=lambda count: rate * planned(count))
            state, metrics = train_step(parts.objective, optimizer, parts.options, state, batch)
            return state, metrics["loss"]

        return jax.jit(apply)

    def placed(self, batch):
        spec = self.parts.objective.batch_spec(self.recipe.train.batch_size)
        return place(batch, jax.tree.map(lambda leaf: self.parts.rules.rows(leaf.shape), spec))


def trainer(values: dict[str, Any], data: Prepared, flat: bool = False) -> Trainer:
    recipe = parse(values)
    return Trainer(recipe, assemble(recipe, data.about, jax.devices()[:1]), flat)


def losses(state: states.TrainState, step: Callable, batches: Iterable, rate: float) -> list[float]:
    """The loss before each update of a run from this state over these placed batches. After one that is not finite all are
    infinite: a run that diverged does not come back."""
    found = []
    for batch in batches:
        state, loss = step(state, batch, jnp.asarray(rate, jnp.float32))
        found.append(float(loss))
        if not np.isfinite(found[-1]):
            return found[:-1] + [float("inf")]
    return found
