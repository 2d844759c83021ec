"""The visual tokenizer whose ids a run predicts: made by another run, checked, and from then on a part of this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.data.prepared_images import PreparedImages
from pretrainx.models.patch_clusters import PatchClusters, fitted
from pretrainx.objectives import codebook
from pretrainx.objectives.beit import BeitConfig
from pretrainx.runs.recipe import Recipe, read_recipe
from pretrainx.training.restore import read_meta, steps_in

CELLS_PER_CODE = 20  # that its use is judged by


def module_of(recipe: Recipe, images: Images) -> nn.Module | None:
    """The tokenizer of a run on these pictures, unbound: k-means centres, or the network of the run that
    config.objective.tokenizer names. None where the objective has none."""
    if not isinstance(recipe.objective, BeitConfig):
        return None
    if recipe.objective.clusters:
        return PatchClusters(images, recipe.model.patch, recipe.objective.clusters)
    if not recipe.objective.tokenizer:
        return None
    workdir = Path(recipe.objective.tokenizer)
    other = read_recipe(workdir)
    steps = steps_in(workdir / "checkpoints")
    if not hasattr(other.model, "codes") or not steps:
        raise ConfigError(
            "this is not the run of a visual tokenizer",
            where="config.objective.tokenizer",
            why=f"{workdir} has no checkpoint" if not steps else f"{workdir} trained a {type(other.model).__name__}",
            do="name the workdir of a run of the objective vq_vae or dvae",
        )
    images = Images.from_json(read_meta(workdir / "checkpoints", steps[-1])["data"]["images"])
    return other.model.build(images, other.precision)


def leaves_of(
    recipe: Recipe, objective: Any, pictures: PreparedImages, say: Callable[[str], None]
) -> dict[str, jax.Array]:
    """{path among the parameters of a new run: array}, {} where the run has no tokenizer.

    ConfigError where it uses too little of its codebook on these pictures.
    """
    if not isinstance(recipe.objective, BeitConfig):
        return {}
    module, (stored, _) = objective.tokenizer, pictures.arrays("train")
    cells = (stored.shape[1] // module.cell) ** 2
    count = min(len(stored), -(-CELLS_PER_CODE * module.count // cells))
    rows = np.sort(np.random.default_rng(0).choice(len(stored), count, replace=False))
    sample = np.asarray(stored[rows])
    if recipe.objective.clusters:
        called = f"k-means centres of the patches of {count} pictures"
        tree = {"codebook": fitted(module.images, sample, module.cell, module.count, recipe.seed)}
    else:
        from pretrainx.runs.load import load  # it reads runs, this one's parts among them

        run = load(recipe.objective.tokenizer)
        called, tree = f"{recipe.objective.tokenizer}, step {run.step}", run.objective.tokenizer(run.params, run.extras)
    found = codebook.usage(module, tree, module.images, sample)
    say(
        f"tokenizer from {called}: perplexity {found['perplexity']:.1f} of {module.count} codes, {found['dead']:.0%} dead, "
        f"error {found['mse']:.3f} of the variance"
    )
    codebook.gate(found["perplexity"], found["dead"], module.count)
    return {f"tokenizer/{path}": leaf for path, leaf in paths.leaves(tree)}
