"""The visual tokenizer whose ids a run predicts: made by another run, checked, and from then on a part of this one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from pretrainx.core import config as strict
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.core.images import Images
from pretrainx.data.prepared_images import PreparedImages
from pretrainx.models.patch_clusters import PatchClusters, fitted
from pretrainx.models.visual_tokenizer import VisualTokenizerConfig
from pretrainx.objectives import codebook, crops, pixels
from pretrainx.objectives.beit import BeitConfig, TokenizerNetwork
from pretrainx.parallel import distributed
from pretrainx.runs.recipe import Recipe, read_recipe
from pretrainx.training.restore import read_meta, steps_in

CELLS_PER_CODE = 20  # that its use is judged by


def module_of(recipe: Recipe, images: Images) -> nn.Module | None:
    """The tokenizer of a run on these pictures, unbound: k-means centres, or the network that `resolved` filled in (before
    that, of the run that config.objective.tokenizer names). None where the objective has none."""
    if not isinstance(recipe.objective, BeitConfig):
        return None
    if recipe.objective.clusters:
        return PatchClusters(images, recipe.model.patch, recipe.objective.clusters)
    if not recipe.objective.tokenizer:
        return None
    return (recipe.objective.network or network_of(Path(recipe.objective.tokenizer))).build()


def resolved(recipe: Recipe, workdir: Path) -> Recipe:
    """The recipe with the network of its tokenizer: that of the run's newest checkpoint, which has the weights; without a
    checkpoint that of the run that is named, from which a fresh start takes the weights too.

    All processes must call it. ConfigError where the named run is needed and is not one of a visual tokenizer.
    """
    objective = recipe.objective
    if not isinstance(objective, BeitConfig) or not objective.tokenizer:
        return recipe

    def find() -> dict[str, Any]:
        return kept(workdir / "checkpoints") or strict.as_dict(network_of(Path(objective.tokenizer)))

    network = strict.parse(TokenizerNetwork, distributed.decided("tokenizer", find), "config.objective.network")
    return dataclasses.replace(recipe, objective=dataclasses.replace(objective, network=network))


def kept(directory: Path) -> dict[str, Any] | None:
    """What the newest readable checkpoint says of its tokenizer's network."""
    for step in reversed(steps_in(directory)):
        with contextlib.suppress(CheckpointError):
            return read_meta(directory, step)["config"]["objective"].get("network")
    return None


def network_of(workdir: Path) -> TokenizerNetwork:
    """The network of a tokenizer's run; ConfigError where this is none."""
    other = read_recipe(workdir)
    steps = steps_in(workdir / "checkpoints")
    if not isinstance(other.model, VisualTokenizerConfig) or not steps:
        raise ConfigError(
            "this is not the run of a visual tokenizer",
            where="config.objective.tokenizer",
            why=f"{workdir} has no checkpoint" if not steps else f"{workdir} trained a {type(other.model).__name__}",
            do="name the workdir of a run of the objective vq_vae or dvae",
        )
    images = Images.from_json(read_meta(workdir / "checkpoints", steps[-1])["data"]["images"])
    return TokenizerNetwork(images, other.model, other.precision)


def seen(pictures: np.ndarray, side: int, rows: int = 256) -> np.ndarray:
    """float32[N, side, side, C] in [0, 1] of uint8[N, S, S, C], resampled where S is another."""
    resample = jax.jit(lambda part: crops.whole(pixels.unit(part), side))
    parts = range(0, len(pictures), rows)
    return np.concatenate([np.asarray(resample(pictures[first : first + rows]), np.float32) for first in parts])


def leaves_of(
    recipe: Recipe, objective: Any, pictures: PreparedImages, say: Callable[[str], None]
) -> dict[str, jax.Array]:
    """{path among the parameters of a new run: array}, {} where the run has no tokenizer.

    ConfigError where it uses too little of its codebook on these pictures, seen at the size at which their codes are targets.
    """
    if not isinstance(recipe.objective, BeitConfig):
        return {}
    module, (stored, _) = objective.tokenizer, pictures.arrays("train")
    count = min(len(stored), -(-CELLS_PER_CODE * module.count // objective.grid**2))
    rows = np.sort(np.random.default_rng(0).choice(len(stored), count, replace=False))
    sample = seen(stored[rows], objective.cells_side)
    clusters = bool(recipe.objective.clusters)
    if clusters:
        called = f"k-means centres of the patches of {count} pictures"
        try:
            tree = {"codebook": fitted(module.images, sample, module.cell, module.count, recipe.seed)}
        except ValueError as error:
            raise ConfigError(
                "the pictures have too few different patches for so many clusters",
                where="config.objective.clusters",
                why=f"of {count} pictures {error}",
                do="choose fewer clusters",
            ) from error
    else:
        from pretrainx.runs.load import load  # they read runs, this one's parts among them
        from pretrainx.runs.unwrapped import unwrapped

        run = unwrapped(load(recipe.objective.tokenizer))
        called, tree = f"{recipe.objective.tokenizer}, step {run.step}", run.objective.tokenizer(run.params, run.extras)
    found = codebook.usage(module, tree, module.images, sample)
    say(
        f"tokenizer from {called}: perplexity {found['perplexity']:.1f} of {module.count} codes, {found['dead']:.0%} dead, "
        f"error {found['mse']:.3f} of the variance"
    )
    codebook.gate(found["perplexity"], found["dead"], module.count, clusters)
    return {f"tokenizer/{path}": leaf for path, leaf in paths.leaves(tree)}
