"""What a run has forgotten of the task that its model was pretrained on: that task's held-out loss, before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.evals.held_out import HeldOut
from pretrainx.objectives.objective import Objective

STATISTICS = "batch_stats/"


def overlaid(objective: Objective, rows: int, heads: tuple[str, ...], new: paths.Tree, old: paths.Tree) -> paths.Tree:
    """The parameters of an objective: those of the adapted run `new`, and of the source run `old` what the new one lacks, has
    in another shape, or has as a head of its own task.

    Raises ConfigError where neither has a leaf, or the new run has none that counts.
    """
    make = lambda batch: axes.unbox(objective.init(jax.random.key(0), batch))
    shapes = jax.eval_shape(make, objective.batch_spec(rows))
    after, before, found, taken = dict(paths.leaves(new)), dict(paths.leaves(old)), [], 0
    for path, leaf in paths.leaves(shapes):
        fits = path in after and after[path].shape == leaf.shape and path.split("/")[0] not in heads
        if not fits and path not in before:
            raise ConfigError(
                "the adapted model cannot be put into the task that it was pretrained on",
                where=path,
                why="the adapted run has no such parameter" + (" of this shape" if path in after else ""),
                do="leave 'forgetting' out",
            )
        taken += fits
        found.append((path, after[path] if fits else before[path]))
    if not taken:
        raise ConfigError(
            "the two runs have no parameter in common",
            where="config.init_from",
            why=f"{len(found)} were looked for",
            do="leave 'forgetting' out",
        )
    return paths.from_leaves(found)


def with_statistics(new: paths.Tree, old: paths.Tree) -> paths.Tree:
    """The extras of the source run `old`, with the running statistics of the adapted run `new` where it has them in that shape:
    normalised by those of before, its activations would be others than in training."""
    end = lambda path: path[path.index(STATISTICS) :] if STATISTICS in path else path
    there = {end(path): leaf for path, leaf in paths.leaves(new) if STATISTICS in path}
    fits = lambda path, leaf: STATISTICS in path and there.get(end(path), np.zeros(0)).shape == leaf.shape
    return paths.map_leaves(lambda path, leaf: there[end(path)] if fits(path, leaf) else leaf, old)


def forgetting(
    held_out: Mapping[str, HeldOut], adapted: Objective, before: tuple[Any, Any], after: tuple[Any, Any], step: int
) -> dict[str, float]:
    """{"[part/]before/loss", "[part/]after/loss", "[part/]difference"} of the source task's held-out splits.

    held_out: the source run's; adapted: its objective inside what the new run wraps; before, after: (parameters, extras) of
    each; step: the source run's.
    """
    found = {}
    for name, evaluator in held_out.items():
        part = name.removeprefix("held_out").strip("/")
        part = f"{part}/" if part else ""
        old = evaluator(*before, step)["loss"]
        new = dataclasses.replace(evaluator, objective=adapted)(*after, step)["loss"]
        found |= {f"{part}before/loss": old, f"{part}after/loss": new, f"{part}difference": new - old}
    return found
