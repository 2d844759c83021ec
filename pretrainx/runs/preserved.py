"""What a run that preserves old knowledge is given of the run that it starts from; and Fisher information in files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.adapt.distill import DistillConfig
from pretrainx.adapt.ewc import IMPORTANCE, EwcConfig
from pretrainx.adapt.l2_sp import L2SpConfig
from pretrainx.adapt.lora import Lora
from pretrainx.adapt.preserving import Strength
from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe
from pretrainx.runs.starting_point import Start, renamed

DIRECTORY = "fisher"


def refuse_without_source(recipe: Recipe) -> None:
    """ConfigError where there is nothing to preserve."""
    if isinstance(recipe.preserve, Strength) and not recipe.init_from:
        raise ConfigError(
            "there is no knowledge to preserve",
            where="config.preserve.name",
            why="config.init_from names no run: the parameters start as noise",
            do="set config.init_from, or config.preserve.name to 'none'",
        )


def leaves_of(recipe: Recipe, parts: Parts, start: Start, say: Callable[[str], None]) -> dict[str, Any]:
    """{path among the parameters that a new run's `init` makes: array}: how important each parameter is, 0 where the run that
    it starts from does not have it.

    Raises ConfigError where nothing of that run can move, where distillation has no whole teacher, where there is no Fisher
    information of the step that the parameters are from, and where it holds none of them; CheckpointError where its file is
    damaged.
    """
    preserve, own = recipe.preserve, parts.objective
    if isinstance(preserve, DistillConfig):
        refuse_half_a_teacher(recipe, parts, start)
    if not isinstance(preserve, EwcConfig | L2SpConfig):
        return {}
    held = dict(paths.leaves(parts.found.extras[IMPORTANCE]))
    if not held.keys() & start.params.keys():
        raise ConfigError(
            "nothing that could be forgotten is trained",
            where="config.preserve.name",
            why=f"{type(own.inner).__name__} trains {len(parts.found.params_axes)} leaves at most, none of them "
            f"in {recipe.init_from}",
            do="--config.preserve.name=none",
        )
    if isinstance(preserve, L2SpConfig):
        return {f"{IMPORTANCE}/{path}": np.float32(path in start.params) for path in held}
    source = Path(preserve.fisher or recipe.init_from)
    # Of another run than the parameters are from the newest: whoever names it says that they belong together.
    step = None if preserve.fisher and preserve.fisher != recipe.init_from else start.step
    found, meta = read_fisher(source, step)
    tops = {path.split("/")[0] for path, _ in paths.leaves(parts.found.params)}
    there = {f"params/{path}": {} for path in found}
    names = {new: old for new, (old, _) in renamed(there, recipe.init, tops).items()}
    largest = max(float(leaf.max()) for leaf in found.values()) if preserve.normalise == "max" else 1.0
    given = {}
    for path, leaf in held.items():
        old = names.get(f"params/{path}", "params/").removeprefix("params/")
        # What was fitted to other sizes or another vocabulary is not leaf by leaf what was measured.
        whole = path in start.params and not any(line.startswith(f"{path}: ") for line in start.lines)
        if whole and old in found and found[old].shape == leaf.shape:
            given[f"{IMPORTANCE}/{path}"] = found[old] / np.float32(largest or 1.0)
        else:
            say(f"{path}: no Fisher information, free to move")
            given[f"{IMPORTANCE}/{path}"] = np.zeros(leaf.shape, np.float32)
    if not any(np.any(leaf) for leaf in given.values()):
        raise ConfigError(
            "the Fisher information holds none of the parameters that are trained",
            where=str(source / DIRECTORY / f"{meta['step']}.npz"),
            why=f"of {len(held)} leaves, such as {next(iter(held))}, each has none there or 0; it is of {next(iter(found))} "
            f"and {len(found) - 1} others",
            do=f"pretrainx eval --workdir={source} --step={meta['step']} --evals=fisher, or --config.preserve.name=l2_sp",
        )
    say(f"Fisher information from {source}, step {meta['step']}: {meta['examples']} examples, {meta['labels']} labels")
    return given


def refuse_half_a_teacher(recipe: Recipe, parts: Parts, start: Start) -> None:
    """ConfigError where the model as it starts, without what was inserted beside its weights, is not that of the other run."""
    inner = parts.objective.inner
    adapts = inner.adapts if isinstance(inner, Wrapper) else lambda path: False
    lacking = [path for path, _ in parts.found.params_axes if path not in start.params and not adapts(path)]
    if lacking:
        raise ConfigError(
            "the teacher would be noise",
            where="config.preserve.name='distill'",
            why=f"{lacking[0]} is not in {recipe.init_from}"
            + f", nor are {len(lacking) - 1} others" * (len(lacking) > 1),
            do="distil what a model of the same objective says, or choose 'ewc' or 'l2_sp'",
        )
    beside = [path for path, _ in parts.found.params_axes if path in start.params and adapts(path)]
    if beside and not isinstance(inner, Lora):  # whose updates are merged into the teacher's weights
        raise ConfigError(
            "the teacher would not be the model that the run starts from",
            where="config.preserve.name='distill'",
            why=f"{recipe.init_from} was adapted too: it answers with {beside[0]}, which is no weight of the model",
            do="choose 'ewc' or 'l2_sp'",
        )


def write_fisher(workdir: Path, step: int, fisher: paths.Tree, facts: dict[str, Any]) -> Path:
    """DIR/fisher/STEP.npz, {path: float32 of the leaf's shape}, and beside it STEP.json, which has its sha256 and `facts`."""
    path = workdir / DIRECTORY / f"{step}.npz"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **dict(paths.leaves(fisher)))
    digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    os.replace(partial, path)
    meta = path.with_suffix(".json.partial")
    meta.write_text(json.dumps({"step": step, "sha256": digest, **facts}, indent=2) + "\n")
    os.replace(meta, path.with_suffix(".json"))
    return path


def read_fisher(workdir: Path, step: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """({path: float32}, what was written beside it) of a step; of None, of the newest.

    Raises ConfigError where there is none, CheckpointError where a file is not what was written.
    """
    steps = sorted(int(path.stem) for path in (workdir / DIRECTORY).glob("*.npz") if path.stem.isdigit())
    if not steps or step is not None and step not in steps:
        of = "" if step is None else f" --step={step}"
        raise ConfigError(
            "there is no Fisher information"
            + ("" if step is None else f" of step {step}, which the parameters are from"),
            where=str(workdir / DIRECTORY),
            why=f"steps there: {', '.join(map(str, steps)) or 'none'}",
            do=f"pretrainx eval --workdir={workdir}{of} --evals=fisher",
        )
    path = workdir / DIRECTORY / f"{steps[-1] if step is None else step}.npz"
    try:
        meta = json.loads(path.with_suffix(".json").read_text())
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != meta["sha256"]:
            raise ValueError("its sha256 is not the one that was written beside it")
        with np.load(path) as file:
            return {name: file[name] for name in file.files}, meta
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            "Fisher information cannot be read",
            where=str(path),
            why=str(error),
            do=f"pretrainx eval --workdir={workdir} --step={path.stem} --evals=fisher",
        ) from error


def training_batches(rows: Any, count: int, size: int) -> Iterator[dict]:
    """The first `count` rows that a run trained on, in batches of `size`; of the last, only the wanted ones are valid."""
    for step in range(-(-count // size)):
        batch = dict(rows.batch(step))
        if "valid" in batch:  # of a mixture each task has its own
            batch["valid"] = batch["valid"] & (np.arange(step * size, (step + 1) * size) < count)
        yield batch
