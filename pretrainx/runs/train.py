"""The main job: from a configuration and a workdir to a trained run. Running it again resumes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pretrainx import __version__
from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.core.readable import duration, quantity
from pretrainx.data.loader import Prefetch, place
from pretrainx.data.prepared import PreparedText
from pretrainx.data.rows import TokenRows, TrainingRows
from pretrainx.data.text import prepare
from pretrainx.parallel.compilation import keep_compiled_programs
from pretrainx.parallel.host_memory import keep_freed_memory
from pretrainx.runs.evaluation import Evaluation
from pretrainx.runs.parts import Parts, assemble, lay_out
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.loop import Loop
from pretrainx.training.peak import peak_flops
from pretrainx.training.restore import MisfitError, Restored, read_meta, restore_params, steps_in
from pretrainx.training.signals import Signals
from pretrainx.training.step import make_train_step
from pretrainx.training.writers import Journal, read

# What `--allow_change` takes.
CHANGEABLE = ("data",)


def train(
    values: dict, workdir: str | Path, allow_change: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> int:
    """Trains the run of a configuration in `workdir`, or goes on with it; returns the exit code 0.

    `allow_change` names what may differ from the checkpoint on resume ("data"). Raises PretrainxError for everything that
    ends a run otherwise; a signal is answered by saving the very step first.
    """
    began = time.time()
    recipe, workdir = parse(values), Path(workdir)
    refuse_unknown(allow_change)
    refuse_if_never(recipe, workdir)
    keep_compiled_programs()
    lay_out(recipe)  # a mesh or batch that cannot be is refused before anything is written
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "the workdir cannot be made",
            where=f"--workdir={workdir}",
            why=error.strerror or str(error),
            do="name a directory that can be written",
        ) from error
    with Journal(workdir) as journal, Signals() as signals:

        def tell(kind: str, **facts: Any) -> None:
            journal.event(kind, **facts)
            if kind == "warning":
                say(f"warning: {facts['text']}")

        text = prepare(recipe.data, recipe.data.cache or workdir / "data", say)
        keep_freed_memory()  # not before: the tokenizer's threads would queue for the one arena
        rows = TrainingRows(
            TokenRows(text.tokens("train"), recipe.data.length), recipe.train.batch_size, recipe.seed, text.vocabulary
        )
        parts = assemble(recipe, text.vocabulary)
        introduce(recipe, parts, text, workdir, say)
        for line in states.fallbacks(parts.found, parts.rules):
            tell("warning", text=line)
        fingerprint = text.fingerprint(recipe.seed, recipe.train.batch_size, recipe.data.length)
        checkpoints = Checkpoints(workdir / "checkpoints", recipe.checkpoint.keep, tell)
        like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
        try:
            restored = checkpoints.restore_newest(like, jax.jit(parts.optimizer.init))
        except MisfitError as error:
            error.why += to_blame(checkpoints, recipe)
            raise
        if restored:
            same_data(restored.meta["data"], fingerprint, allow_change, tell)
            state, past = resumed(restored, recipe, journal, say), restored.meta["wall"]
        else:
            state, past = fresh(recipe, parts, tell, say), 0.0
        write_config(recipe, workdir, journal)
        journal.event(
            "start",
            step=int(state.step),
            parameters=parts.found.parameters(text.vocabulary.size),
            devices=jax.device_count(),
        )

        wall = lambda: past + time.time() - began
        spec = parts.objective.batch_spec(recipe.train.batch_size)
        shardings = {name: parts.rules.rows(leaf.shape) for name, leaf in spec.items()}
        flops = parts.objective.flops_per_row()
        peak = peak_flops(jax.devices(), recipe.precision.compute)
        evaluation = Evaluation(recipe, parts, text, workdir)
        # The last thing before the loop: its thread is closed by what follows.
        prefetch = Prefetch(lambda step: place(rows.batch(step), shardings), int(state.step))
        loop = Loop(
            config=recipe.train,
            step=make_train_step(parts.objective, parts.optimizer, parts.options, state),
            next_batch=prefetch.next,
            waited=lambda: prefetch.wait_seconds,
            record_hash=rows.record_hash,
            evaluate=evaluation,
            checkpoints=checkpoints,
            save_every=recipe.checkpoint.every,
            journal=journal,
            workdir=workdir,
            facts=lambda: {"config": strict.as_dict(recipe), "data": fingerprint, "wall": wall()},
            units_per_step=recipe.train.batch_size * recipe.data.length,
            unit="tok",
            flops_per_step=flops and flops * recipe.train.batch_size,
            peak=peak,
            patience=recipe.guard.patience,
            wall=wall,
            say=say,
            owed=owes_evaluation(recipe, int(state.step), workdir),
        )
        try:
            loop.run(state, signals)
        finally:
            prefetch.close()
            checkpoints.close()
        journal.event("done", step=recipe.train.steps, wall=round(wall(), 3))
    if evaluation.latest_samples:
        say("\n" + evaluation.latest_samples)
    say(f"done in {duration(wall())}: {report(workdir)}")
    return 0


def refuse_unknown(allow_change: tuple[str, ...]) -> None:
    for name in allow_change:
        if name not in CHANGEABLE:
            raise ConfigError(
                f"{name!r} is nothing that may change on resume",
                where="--allow_change",
                why=nearest(name, CHANGEABLE),
                do="--allow_change=data goes on with other data; for another model start in another --workdir",
            )


def refuse_if_never(recipe: Recipe, workdir: Path) -> None:
    if recipe.resume == "never" and workdir.is_dir() and any(workdir.iterdir()):
        raise ConfigError(
            "the workdir is not empty",
            where=str(workdir),
            why="config.resume is 'never': nothing is continued and nothing overwritten",
            do="choose another --workdir, or --config.resume=auto to go on with the run that is there",
        )


def same_data(then: dict, now: dict, allow_change: tuple[str, ...], tell: Callable) -> None:
    """DataError when the run so far read other data: its batches would not be those of one run."""
    differences = strict.difference(then, now)
    if not differences:
        return
    lines = "\n".join(f"{path}: {old!r} before, {new!r} now" for path, old, new in differences)
    if "data" not in allow_change:
        raise DataError(
            "the data changed since the checkpoint",
            where="config.data, config.seed, config.train.batch_size",
            why=lines,
            do="go back to the data of the run, start in another --workdir, or pass --allow_change=data",
        )
    tell("warning", text="the data changed since the checkpoint, as allowed: " + lines.replace("\n", "; "))


def to_blame(checkpoints: Checkpoints, recipe: Recipe) -> str:
    """Lines on the fields of the configuration that may be why the newest checkpoint does not fit: a person sets fields."""
    newest = steps_in(checkpoints.directory)[-1]
    then, now = read_meta(checkpoints.directory, newest)["config"], json.loads(json.dumps(strict.as_dict(recipe)))
    return "".join(
        f"\nconfig.{section}.{path}: {old!r} in the checkpoint, {new!r} now"
        for section in ("objective", "model", "data", "precision", "guard")
        for path, old, new in strict.difference(then[section], now[section])
    )


def resumed(restored: Restored, recipe: Recipe, journal: Journal, say: Callable) -> states.TrainState:
    meta = restored.meta
    ago = duration(max(time.time() - meta["saved"], 0))
    say(f"resumed from step {meta['step']} (saved {ago} ago), wall time so far {duration(meta['wall'])}")
    journal.event("resumed", step=meta["step"])
    for line in restored.lines:
        journal.event("warning", text=line)
        say(f"resumed: {line}")
    changed = strict.difference(meta["config"], json.loads(json.dumps(strict.as_dict(recipe))))
    for path, old, new in changed:
        journal.event("config", path=path, old=old, new=new)
        say(f"resumed: config.{path} is {new!r}, was {old!r}")
    return restored.state


def fresh(recipe: Recipe, parts: Parts, tell: Callable, say: Callable) -> states.TrainState:
    """A new state, its parameters from `init_from` where that run has them."""
    given = {}
    if recipe.init_from:
        source = Path(recipe.init_from)
        wanted = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found).full_params()
        given, step, lines = restore_params(source / "checkpoints", wanted)
        say(f"parameters from {source}, step {step}: {len(given)} of {len(given) + len(lines)} leaves")
        for line in lines:
            tell("warning", text=line)
    return states.create(parts.objective, parts.optimizer, parts.options, parts.found, recipe.train.batch_size, given)


def owes_evaluation(recipe: Recipe, step: int, workdir: Path) -> bool:
    """Whether the state of this step should have been evaluated and was not: a signal ends an evaluation at once."""
    if step == 0 or not recipe.train.evaluates(step):
        return False
    records = (record for record in read(workdir / "metrics.jsonl") if record.get("step") == step)
    return not any(name.startswith("eval/") for record in records for name in record)


def write_config(recipe: Recipe, workdir: Path, journal: Journal) -> None:
    """The resolved config, replaced in one move. Only a run that could start or resume writes it."""
    path = workdir / "config.json"
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(json.dumps(strict.as_dict(recipe), indent=2) + "\n")
        os.replace(partial, path)
    except OSError as error:
        journal.event("warning", text=f"config.json was not written: {error}")


def introduce(recipe: Recipe, parts: Parts, text: PreparedText, workdir: Path, say: Callable) -> None:
    """The block that a run starts with."""
    mesh = {axis: size for axis, size in parts.rules.mesh.shape.items() if size > 1} or "one device"
    tokens = recipe.train.batch_size * recipe.data.length
    total, stored = tokens * recipe.train.steps, text.meta["splits"]["train"]["tokens"]
    count = parts.found.parameters(text.vocabulary.size)
    say(f"pretrainx {__version__} | {jax.device_count()} x {jax.devices()[0].device_kind} | mesh {mesh} | {workdir}")
    say(
        f"model {quantity(count)} parameters | {quantity(stored)} training tokens, vocabulary {text.vocabulary.size} | "
        f"{tokens} tokens a step ({recipe.train.batch_size} rows, {parts.rows_per_device} per device and microbatch)"
    )
    say(
        f"{recipe.train.steps} steps: {quantity(total)} tokens, {total / max(stored, 1):.2f} epochs, "
        f"{total / count:.1f} tokens per parameter"
    )


def report(workdir: Path) -> str:
    from pretrainx.report.page import write

    return f"report in {write(workdir / 'report.html', [workdir])}"
