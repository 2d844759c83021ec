"""What a run has forgotten of the task that its model was pretrained on: that task's held-out loss, before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.evals.held_out import HeldOut
from pretrainx.objectives.objective import Objective


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


def forgetting(
    held_out: Mapping[str, HeldOut], adapted: Objective, before: tuple[Any, int], after: Any, extras: Any
) -> dict[str, float]:
    """{"[part/]before/loss", "[part/]after/loss", "[part/]difference"} of the source task's held-out splits.

    held_out: the source run's; adapted: its objective inside what the new run wraps; before: (its parameters, its step).
    """
    found = {}
    params, step = before
    for name, evaluator in held_out.items():
        part = name.removeprefix("held_out").strip("/")
        part = f"{part}/" if part else ""
        old = evaluator(params, extras, step)["loss"]
        new = dataclasses.replace(evaluator, objective=adapted)(after, extras, step)["loss"]
        found |= {f"{part}before/loss": old, f"{part}after/loss": new, f"{part}difference": new - old}
    return found
