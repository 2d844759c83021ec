"""Everything that training does but train: the run is laid out, compiled, held against the disk and its checkpoints."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from pretrainx.core import config as strict
from pretrainx.core.errors import CheckpointError, ConfigError, OutOfMemoryError
from pretrainx.core.json_lines import read_metrics
from pretrainx.core.readable import duration, quantity, size
from pretrainx.parallel import distributed
from pretrainx.runs import examples, frozen_tokenizer, parameters, preserved, replicas
from pretrainx.runs.compiled import compile_step
from pretrainx.runs.data import Prepared, prepare
from pretrainx.runs.disk import disk_need
from pretrainx.runs.evaluations import evaluated
from pretrainx.runs.introduction import introduce, tell_all
from pretrainx.runs.load import data_directory
from pretrainx.runs.parts import Parts, assemble
from pretrainx.runs.recipe import Recipe, parse
from pretrainx.runs.replicas import in_replicas
from pretrainx.runs.resume import blame, changes, plain, refuse_changes, shown
from pretrainx.runs.starting_point import read_start
from pretrainx.runs.train import begin, check_disk, prepared
from pretrainx.training import replicated
from pretrainx.training import state as states
from pretrainx.training.peak import peak_flops
from pretrainx.training.restore import FormatError, MisfitError, restore_step, steps_in

ASSUMED_MFU = 0.4  # of a well-fed accelerator, where the run has not measured its own
ROWS, CHARACTERS = 2, 400  # of the batch that is shown


def dry_run(
    values: dict,
    workdir: str | Path,
    allow_change: tuple[str, ...] = (),
    of_file: dict | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Shows what `train` with the same arguments would do and returns 0, or raises what the run would meet.

    `of_file` are the values without overrides, to show what these change. Nothing is written in the workdir and no step is
    taken; data that are not prepared yet are prepared in a temporary directory, or in config.data.cache where it is set.
    """
    recipe, workdir = parse(values), Path(workdir)
    distributed.start(recipe.distributed, say)
    say = say if distributed.leads() else lambda text: None
    begin(recipe, workdir, allow_change)
    distributed.decided("workdir", lambda: refuse_unwritable(workdir))
    heading = lambda name: say(f"\n== {name} ==")
    heading("config")
    tell_all(config_lines(recipe, values, of_file), say)
    recipe = frozen_tokenizer.resolved(recipe, workdir)
    heading("data")
    with data_of(recipe, workdir, say) as data:
        parts = in_replicas(recipe, assemble(recipe, data.about))
        like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
        heading("parameters")
        tell_all(parameters.lines(parts), say)
        tell_all((f"warning: {line}" for line in replicas.warnings(parts)), say)
        tell_all((f"warning: {line}" for line in states.fallbacks(parts.found, parts.rules)), say)
        tell_all((f"warning: {line}" for line in replicated.lines(like, parts.found, parts.rules)), say)
        heading("run")
        introduce(recipe, parts, data, workdir, say)
        tell_all(arithmetic(recipe, parts, workdir), say)
        heading("memory, per device")
        tell_all(memory_lines(recipe, parts, like), say)
        heading("checkpoints")
        fingerprint = data.fingerprint(recipe.seed, recipe.train.batch_size, parts.objective.reads)
        step = look_at_checkpoints(recipe, parts, data, like, workdir, fingerprint, allow_change, say)
        need = disk_need(like, recipe.checkpoint.keep, workdir / "checkpoints", parts.objective.constants)
        say(f"disk: {need}")
        heading("evaluation and writers")
        tell_all(evaluation_lines(recipe, parts), say)
        heading("the first batch" if step == 0 else f"batch {step}, the first that it would read")
        tell_all(batch_lines(recipe, parts, data, step), say)
    warn = lambda kind, text: say(f"{kind}: {text}")
    distributed.decided("disk", lambda: check_disk(need, workdir / "checkpoints", warn))
    say("\ndry run: nothing was trained, and nothing was written in the workdir")
    return 0


def refuse_unwritable(workdir: Path) -> None:
    """ConfigError where the workdir could not be made or written."""
    there = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            "the workdir cannot be made",
            where=f"--workdir={workdir}",
            why=f"{there} is " + ("not writable" if there.is_dir() else "no directory"),
            do="name a directory that can be written",
        )


@contextlib.contextmanager
def data_of(recipe: Recipe, workdir: Path, say: Callable[[str], None]) -> Iterator[Prepared]:
    """The data where the run would have them, or else prepared by each process for itself: hosts share no temporary files."""
    directory = data_directory(recipe, workdir)
    there = lambda: bool(recipe.data.cache) or directory.is_dir() and any(directory.iterdir())
    if distributed.decided("prepared", there):
        yield prepared(recipe, directory, say)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield prepare(recipe.data, Path(temporary) / "data", say)


def config_lines(recipe: Recipe, values: dict, of_file: dict | None) -> Iterator[str]:
    """Every key with its value; where an override changed it, `file -> now`."""
    changed = {}
    if of_file is not None:
        try:
            before, after = plain(parse(of_file)), plain(recipe)
        except ConfigError:  # the file alone is no run: what both say is compared, without defaults
            before, after = of_file, values
        changed = {path: old for path, old, _ in strict.difference(before, after)}
    for path, value in strict.flatten(plain(recipe)):
        yield f"{path} = " + (f"{changed[path]!r} -> {value!r}   (override)" if path in changed else repr(value))


def arithmetic(recipe: Recipe, parts: Parts, workdir: Path) -> Iterator[str]:
    """How the batch is divided, FLOPs, and how long that takes."""
    train, units = recipe.train, parts.units_per_row
    unit = parts.unit_name
    rate_of = "perf/tokens_per_s" if parts.of_text else "perf/examples_per_s"
    yield (
        f"batch: {train.batch_size} rows = {parts.rules.batch_ways()} ways x {train.microbatches} microbatches x "
        f"{parts.rows_per_device} rows per device"
    )
    flops = parts.objective.flops_per_row()
    if not flops:
        return
    total = flops * train.batch_size * train.steps
    yield f"FLOPs: {quantity(flops / units)} per {unit}, {total:.3g} in all"
    rates = (record.get(rate_of) for record in read_metrics(workdir / "metrics.jsonl"))
    measured = [rate for rate in rates if isinstance(rate, float) and rate > 0]
    if measured:
        rate = measured[-1]
        seconds = train.batch_size * units * train.steps / rate
        yield f"time: {duration(seconds)} at the {quantity(rate)} {unit}s/s of this run"
    elif peak := peak_flops(jax.devices(), recipe.precision.compute):
        yield (
            f"time: {duration(total / (ASSUMED_MFU * peak))} at an assumed {ASSUMED_MFU:.0%} of "
            f"{peak / 1e12:.3g} TFLOP/s, without compiling, evaluating and saving"
        )


def memory_lines(recipe: Recipe, parts: Parts, like: states.TrainState) -> Iterator[str]:
    """What is kept, counted; then what the compiled train step says. OutOfMemoryError where the device has less."""
    found = compile_step(parts, like, recipe.train.batch_size)
    counted = {kind: count for kind, count in found.counted.items() if kind != "batch"}
    sizes = ", ".join(f"{name} {size(count)}" for name, count in counted.items() if count)
    yield f"counted: {sizes}; together {size(sum(counted.values()))}, activations not counted"
    yield f"the train step compiles: {found.seconds:.1f} s"
    if not found.peak:
        yield "the compiler tells no sizes on this platform"
        return
    if not found.limit:
        yield (
            f"compiled: arguments {size(found.argument)}, temporary {size(found.temporary)}, "
            f"outputs beyond the donated state {size(found.output)}; together {size(found.peak)}"
        )
    limit = found.limit or (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        yield f"device: {size(limit)}"
    if limit and found.peak > limit:
        raise OutOfMemoryError(
            "the train step does not fit the device",
            where="device",
            why=f"{size(found.peak)} needed, {size(limit)} there",
            do="one of these, cheapest first:\n"
            f"--config.train.microbatches={2 * recipe.train.microbatches}   the same update from smaller pieces\n"
            "--config.model.remat=full       recompute activations in the backward pass\n"
            "--config.mesh.data=1 --config.mesh.fsdp=-1   shard parameters and optimizer state over all devices",
        )


def look_at_checkpoints(
    recipe: Recipe, parts: Parts, data: Prepared, like, workdir: Path, fingerprint: dict, allow_change, say
) -> int:
    """Tells what the run would start from, and gives that step. Every leaf is read and verified; nothing is renamed."""
    directory, damaged = workdir / "checkpoints", []
    for step in reversed(distributed.decided("steps", lambda: steps_in(directory))):
        try:
            restored = restore_step(directory, step, like, jax.jit(parts.optimizer.init))
        except MisfitError as error:
            error.shared, error.why = True, error.why + blame(directory, recipe)
            raise
        except FormatError:
            raise
        except CheckpointError as error:
            damaged.append(f"step {step}: {error.what}: {error.where}: {error.why}")
            say(f"warning: {damaged[-1]}; it would be set aside")
            continue
        found = changes(restored.meta, recipe, fingerprint)
        refuse_changes(found, allow_change)
        say(f"would resume from step {step}, which is whole; {max(recipe.train.steps - step, 0)} steps are left")
        tell_all((f"resumed: {line}" for line in restored.lines), say)
        tell_all((f"{change} ({shown(change, allow_change)})" for change in found), say)
        return step
    set_aside = sorted(path.name for path in directory.glob("*.corrupt*"))
    if damaged or set_aside:
        raise CheckpointError(
            "no checkpoint is usable",
            where=str(directory),
            why="\n".join([*damaged, *set_aside]),
            do="train anew in another --workdir, or put an intact copy of a step back",
        )
    if not recipe.init_from:
        say("would start from scratch")
        return 0
    start = read_start(recipe, parts, data.about, data.tokenizer)
    say(f"would start with {start.said(recipe.init_from)}")
    tell_all((f"warning: {line}" for line in start.lines), say)
    preserved.leaves_of(recipe, parts, start, say)
    return 0


def evaluation_lines(recipe: Recipe, parts: Parts) -> Iterator[str]:
    every = f"every {recipe.train.eval_every} steps and " if recipe.train.eval_every else ""
    yield f"evaluated {every}at the end: {', '.join(['held-out loss', *evaluated(recipe, parts)])}"
    yield f"saved every {recipe.checkpoint.every} steps and at the end, the last {recipe.checkpoint.keep} kept"
    yield "writers: metrics.jsonl, events.jsonl" + ", tensorboard" * recipe.writers.tensorboard


def batch_lines(recipe: Recipe, parts: Parts, data: Prepared, step: int) -> Iterator[str]:
    """The first rows of batch `step`, before and after `observe`."""
    rows = data.training_rows(parts.objective.reads, recipe.train.batch_size, recipe.seed)
    batch = rows.batch(step)
    observation = examples.observed(parts.objective, recipe.seed, step, batch)
    yield f"hash {rows.record_hash(step)}; targets in {examples.UNSCORED[0]}...{examples.UNSCORED[1]} have weight 0"
    for task, part, seen in examples.by_task(batch, observation):
        for row in range(min(ROWS, len(part["valid"]))):
            yield f"row {row}{examples.of(task)}, corpus row {examples.rows_of(rows, task).numbers(step)[row]}"
            yield from (f"  {line}" for line in examples.lines(data.tokenizer, part, seen, row, CHARACTERS))
