"""How much of a model can be left out: held-out loss with the smallest weights at zero (Han et al. 2015; Zhu & Gupta 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.evals.held_out import HeldOut

PRUNED = ("kernel", "head")  # roles: norms, biases, scalars and embeddings (a tied head is one) stay whole


@dataclass(frozen=True)
class PruningConfig:
    """Attributes:
    sparsities: shares of the weights that are set to zero, the smallest of all matrices together.
    """

    sparsities: tuple[float, ...] = field(default=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95), metadata={"min": 0, "below": 1})


def thresholds(params: paths.Tree, names: tuple, sparsities: tuple[float, ...]) -> tuple[set[str], list[float]]:
    """(paths of what is pruned, for each sparsity the largest magnitude that goes; -1 where none does).

    names: ((path, axis names), ...). Raises ConfigError where nothing can be pruned.
    """
    roles = {path: axes.role(of) for path, of in names}
    chosen = {path for path, _ in paths.leaves(params) if roles[path] in PRUNED}
    if not chosen:
        raise ConfigError(
            "there is nothing to prune",
            where="--evals=pruning",
            why="the model has no matrices, only norms, biases and embeddings",
            do="leave 'pruning' out",
        )
    sizes = [np.abs(np.asarray(leaf, np.float32)).ravel() for path, leaf in paths.leaves(params) if path in chosen]
    order = np.sort(np.concatenate(sizes))
    counts = [int(sparsity * len(order)) for sparsity in sparsities]
    return chosen, [float(order[count - 1]) if count else -1.0 for count in counts]


def pruned(params: paths.Tree, chosen: set[str], threshold: float) -> paths.Tree:
    """The parameters with zeros where the magnitude of a chosen leaf is at most `threshold`."""
    cut = jax.jit(lambda leaf: jnp.where(jnp.abs(leaf.astype(jnp.float32)) <= threshold, 0, leaf).astype(leaf.dtype))
    return paths.map_leaves(lambda path, leaf: cut(leaf) if path in chosen else leaf, params)


def pruning(
    config: PruningConfig, held_out: HeldOut, params: paths.Tree, names: tuple, extras: Any, step: int
) -> Iterator[tuple[str, float]]:
    """("<sparsity>/loss", value), and "<sparsity>/accuracy" where the objective has one, for each sparsity."""
    chosen, cuts = thresholds(params, names, config.sparsities)
    for sparsity, threshold in zip(config.sparsities, cuts, strict=True):
        found = held_out(pruned(params, chosen, threshold), extras, step)
        yield f"{sparsity:g}/loss", found["loss"]
        if "metric/accuracy" in found:
            yield f"{sparsity:g}/accuracy", found["metric/accuracy"]
