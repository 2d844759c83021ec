"""The main job: from a configuration and a workdir to a trained run. Running it again resumes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pretrainx import __version__
from pretrainx.adapt.wrapper import innermost
from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import duration
from pretrainx.core.whole_file import write_whole
from pretrainx.data.loader import Prefetch, place
from pretrainx.parallel import distributed
from pretrainx.parallel.compilation import keep_compiled_programs
from pretrainx.parallel.host_memory import keep_freed_memory
from pretrainx.runs import frozen_tokenizer, preserved, replicas
from pretrainx.runs.data import Prepared, prepare
from pretrainx.runs.disk import DiskNeed, disk_need
from pretrainx.runs.evaluations import evaluation_of
from pretrainx.runs.introduction import introduce
from pretrainx.runs.load import data_directory
from pretrainx.runs.parameters import lines
from pretrainx.runs.parts import Parts, assemble, lay_out
from pretrainx.runs.recipe import OF_LABELLED, Recipe, parse
from pretrainx.runs.replicas import in_replicas, step_of
from pretrainx.runs.resume import blame, go_on, owes_evaluation, refuse_unknown
from pretrainx.runs.starting_point import read_start
from pretrainx.training import replicated
from pretrainx.training import state as states
from pretrainx.training.alarm import Alarm
from pretrainx.training.breakdown import Breakdown
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.loop import Loop
from pretrainx.training.peak import peak_flops
from pretrainx.training.restore import MisfitError, steps_in
from pretrainx.training.signals import Signals
from pretrainx.training.tensorboard import tensorboard
from pretrainx.training.watchdog import Watchdog
from pretrainx.training.writers import Journal, ProcessLog


def train(
    values: dict, workdir: str | Path, allow_change: tuple[str, ...] = (), say: Callable[[str], None] = print
) -> int:
    """Trains the run of a configuration in `workdir`, or goes on with it; returns the exit code 0.

    `allow_change` names sections or keys of the config that may differ from the checkpoint on resume. Raises PretrainxError
    for everything that ends a run otherwise; a signal is answered by saving the very step first.
    """
    began, clock = time.time(), Breakdown()
    recipe, workdir = parse(values), Path(workdir)
    distributed.start(recipe.distributed, say)
    say = say if distributed.leads() else lambda text: None
    begin(recipe, workdir, allow_change)
    recipe = frozen_tokenizer.resolved(recipe, workdir)
    distributed.decided("workdir", lambda: make(workdir))
    with (
        Journal(workdir) if distributed.leads() else ProcessLog(workdir, distributed.index()) as journal,
        Signals() as signals,
        Watchdog(recipe.watchdog, workdir, journal.event) as watchdog,
    ):

        def tell(kind: str, **facts: Any) -> None:
            journal.event(kind, **facts)
            if kind == "warning":
                say(f"warning: {facts['text']}")

        data = prepared(recipe, data_directory(recipe, workdir), say)
        keep_freed_memory()  # not before: the tokenizer's threads would queue for the one arena
        parts = in_replicas(recipe, assemble(recipe, data.about))
        rows = data.training_rows(parts.objective.reads, recipe.train.batch_size, recipe.seed)
        introduce(recipe, parts, data, workdir, say)
        for split, count in data.bad_records.items():
            tell("bad_records", split=split, count=count)
        for line in (*replicas.warnings(parts), *states.fallbacks(parts.found, parts.rules)):
            tell("warning", text=line)
        fingerprint = data.fingerprint(recipe.seed, recipe.train.batch_size, parts.objective.reads)
        checkpoints = Checkpoints(workdir / "checkpoints", recipe.checkpoint.keep, tell)
        like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
        for line in replicated.lines(like, parts.found, parts.rules):
            tell("warning", text=line)
        try:
            with watchdog.during("restore"):
                restored = checkpoints.restore_newest(like, jax.jit(parts.optimizer.init))
        except MisfitError as error:  # of the configuration and the meta record, which all processes have alike
            error.shared, error.why = True, error.why + blame(checkpoints.directory, recipe)
            raise
        if restored:
            state, past = go_on(restored, recipe, fingerprint, allow_change, tell, say), restored.meta["wall"]
        else:
            with watchdog.during("restore"):
                state, past = fresh(recipe, parts, data, tell, say), 0.0
        constants = parts.objective.constants
        need = disk_need(like, recipe.checkpoint.keep, checkpoints.directory, constants)
        distributed.decided("disk", lambda: check_disk(need, checkpoints.directory, tell))
        wall = lambda: past + time.time() - began
        facts = lambda: {"config": strict.as_dict(recipe), "data": fingerprint, "wall": wall()}
        with watchdog.during("restore"):
            checkpoints.keep_base(state, constants, facts())
        if distributed.leads():
            write_facts(recipe, parts, workdir, journal)
        if recipe.writers.tensorboard and distributed.leads():
            journal.sinks.append(tensorboard(recipe.writers, workdir, lambda text: tell("warning", text=text)))
        journal.event(
            "start",
            step=int(state.step),
            parameters=parts.parameters,
            devices=jax.device_count(),
            seconds=round(time.time() - began, 3),
        )

        spec = parts.objective.batch_spec(recipe.train.batch_size)
        shardings = jax.tree.map(lambda leaf: parts.rules.rows(leaf.shape), spec)
        flops = parts.objective.flops_per_row()
        peaks = distributed.exchange("peak", peak_flops(jax.local_devices(), recipe.precision.compute))
        evaluation = evaluation_of(recipe, parts, data, workdir)
        # The last thing before the loop: its thread is closed by what follows.
        prefetch = Prefetch(lambda step: place(rows.batch(step), shardings), int(state.step))
        loop = Loop(
            config=recipe.train,
            step=step_of(parts, state, recipe.train),
            next_batch=prefetch.next,
            record_hash=rows.record_hash,
            evaluate=evaluation,
            checkpoints=checkpoints,
            save_every=recipe.checkpoint.every,
            journal=journal,
            workdir=workdir,
            facts=facts,
            units_per_step=recipe.train.batch_size * parts.units_per_row,
            unit=parts.unit,
            flops_per_step=flops and flops * recipe.train.batch_size,
            peak=None if None in peaks else sum(peaks),
            patience=recipe.guard.patience,
            alarm=Alarm(recipe.alarm),
            clock=clock,
            trace=recipe.profile,
            wall=wall,
            watchdog=watchdog,
            say=say,
            owed=distributed.decided("owed", lambda: owes_evaluation(recipe, int(state.step), workdir)),
        )
        try:
            loop.run(state, signals)
        finally:
            prefetch.close()
            checkpoints.close()
        journal.event("done", step=recipe.train.steps, wall=round(wall(), 3))
    if not distributed.leads():
        return 0
    if evaluation.latest_samples:
        say("\n" + evaluation.latest_samples)
    say(f"done in {duration(wall())}: {report(workdir)}")
    return 0


def begin(recipe: Recipe, workdir: Path, allow_change: tuple[str, ...]) -> None:
    """ConfigError for what can be refused before anything is read or written; processes agree that they make one run."""
    refuse_unlike(recipe, workdir, allow_change)
    distributed.decided("workdir", lambda: refuse_if_never(recipe, workdir))
    keep_compiled_programs()
    try:
        refuse_unknown(allow_change, recipe)
        refuse_headless(recipe)
        preserved.refuse_without_source(recipe)
        lay_out(recipe)
    except ConfigError as error:
        error.shared = True  # of what all processes have alike
        raise


def refuse_headless(recipe: Recipe) -> None:
    """ConfigError where the model predicts nothing: it is imported for its features. Tasks bring a head of their own."""
    if getattr(recipe.model, "head", "") == "none" and not isinstance(recipe.objective, tuple(OF_LABELLED.values())):
        raise ConfigError(
            "the model has no head to be trained with",
            where="config.model.head",
            why="'none': it gives features, and predicts no tokens",
            do="--config.model.head=transform, with config.init_from naming the run: the head starts anew",
        )


def refuse_unlike(recipe: Recipe, workdir: Path, allow_change: tuple[str, ...]) -> None:
    """ConfigError where the processes were given different runs: inside a step they would wait for each other for ever."""
    config = {name: value for name, value in strict.as_dict(recipe).items() if name != "distributed"}
    given = json.dumps([__version__, str(workdir), config, allow_change], sort_keys=True)
    said = distributed.exchange("config", hashlib.sha256(given.encode()).hexdigest())
    unlike = [str(process) for process, digest in enumerate(said) if digest != said[0]]
    if unlike:
        error = ConfigError(
            "the processes of the run were started with different configurations",
            where="--config, --workdir, --allow_change, or the version of pretrainx",
            why=f"processes {', '.join(unlike)} differ from process 0",
            do="start all with the same command",
        )
        error.shared = True
        raise error


def make(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "the workdir cannot be made",
            where=f"--workdir={workdir}",
            why=error.strerror or str(error),
            do="name a directory that can be written",
        ) from error


def prepared(recipe: Recipe, directory: Path, say: Callable) -> Prepared:
    """The data, prepared by process 0 while the others wait; then these open what it made."""
    made = []
    prepare_once = lambda: made.append(prepare(recipe.data, directory, say))
    distributed.decided("data", prepare_once)
    if not made:
        prepare_once()
    return made[0]


def refuse_if_never(recipe: Recipe, workdir: Path) -> None:
    if recipe.resume == "never" and workdir.is_dir() and any(workdir.iterdir()):
        raise ConfigError(
            "the workdir is not empty",
            where=str(workdir),
            why="config.resume is 'never': nothing is continued and nothing overwritten",
            do="choose another --workdir, or --config.resume=auto to go on with the run that is there",
        )


def fresh(recipe: Recipe, parts: Parts, data: Prepared, tell: Callable, say: Callable) -> states.TrainState:
    """A new state, its parameters from `init_from` where that run has them."""
    given, statistics = frozen_tokenizer.leaves_of(recipe, innermost(parts.objective), data, say), {}
    if recipe.init_from:
        start = read_start(recipe, parts, data.about, data.tokenizer)
        given, statistics = given | start.params, start.statistics
        say(start.said(recipe.init_from))
        for line in start.lines:
            tell("warning", text=line)
        given |= preserved.leaves_of(recipe, parts, start, say)
    return states.create(
        parts.objective, parts.optimizer, parts.options, parts.found, recipe.train.batch_size, given, statistics
    )


def check_disk(need: DiskNeed, directory: Path, tell: Callable) -> None:
    """CheckpointError where not even a first checkpoint will find room; a warning where they will not all."""
    if need.missing and need.free < need.state and not steps_in(directory):
        raise need.error(directory)
    if need.missing:
        tell("warning", text=f"the disk may be too small for the checkpoints: {need}")


def write_facts(recipe: Recipe, parts: Parts, workdir: Path, journal: Journal) -> None:
    """The resolved config and the table of parameters, each replaced in one move. Only a run that could start writes them."""
    facts = {
        "config.json": json.dumps(strict.as_dict(recipe), indent=2),
        "params.txt": "\n".join(lines(parts)),
    }
    for name, content in facts.items():
        try:
            write_whole(workdir / name, content + "\n")
        except OSError as error:
            journal.event("warning", text=f"{name} was not written: {error}")


def report(workdir: Path) -> str:
    from pretrainx.report.page import write

    return f"report in {write(workdir / 'report.html', [workdir])}"
