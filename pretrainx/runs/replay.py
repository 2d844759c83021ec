"""Looking at one step again: its batch is a function of (seed, step), so nothing of it had to be stored.

Batch N is read by the update that takes the run from step N to step N + 1, whose line in metrics.jsonl has "step": N + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from pretrainx.core.errors import CheckpointError, ConfigError, DataError
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.data.loader import place
from pretrainx.data.rows import TrainingRows
from pretrainx.data.tasks import TaskRows
from pretrainx.parallel.compilation import keep_compiled_programs
from pretrainx.runs import examples
from pretrainx.runs.data import Prepared, prepare
from pretrainx.runs.load import prepared_directory, rebuild
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe, read_recipe
from pretrainx.runs.replicas import in_replicas, step_of
from pretrainx.training import state as states
from pretrainx.training.restore import FormatError, MisfitError, Restored, restore_step, steps_in

# How far a loss may be off, relatively, where sums were taken in another order: on other devices, in other microbatches.
ROUNDING = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 5e-3}


@dataclass
class Replay:
    """A run, ready to make any of its steps again.

    Attributes:
      logged: the line of metrics.jsonl that the step wrote, {} without one.
      moved: the devices that the run had at that step, and those that are here, where they are not the same; else "".
    """

    directory: Path
    recipe: Recipe
    parts: Parts
    data: Prepared
    rows: TrainingRows | TaskRows
    restored: Restored
    logged: dict
    moved: str

    def batch(self, step: int) -> dict[str, jax.Array]:
        batch = self.rows.batch(step)
        return place(batch, jax.tree.map(lambda values: self.parts.rules.rows(values.shape), batch))


def replay(workdir: str | Path, step: int, rows: int = 4, forward: int = 20, say: Callable[[str], None] = print) -> int:
    """Shows batch `step`: row numbers, text before and after `observe`, and the loss of every row; 0.

    The losses come from the train step itself with its keys of that step, on the newest checkpoint at or before it, or else
    on the nearest one. Where that is at most `forward` steps away the run is rolled forward to the step, twice: the losses of
    all rows are compared to the bit, and then the loss with the logged one. `rows` of the largest loss are shown as text.
    Nothing is written.

    Raises ConfigError, CheckpointError, or DataError where the batch is not the one that was logged.
    """
    if step < 0:
        raise ConfigError(
            "steps start at 0",
            where=f"--step={step}",
            why="there is no batch before the first",
            do="--step=0 is the first batch of the run",
        )
    keep_compiled_programs()
    made = open_run(Path(workdir), step, say)
    logged, found = made.logged, made.rows.record_hash(step)
    say(f"batch {step}, read between steps {step} and {step + 1}: hash {found}, {_compared(found, logged, step)}")
    other = logged.get("batch_hash", found) != found
    at, losses, loss = _losses(made, step, 0 if other else forward, say)
    _verdict(made, step, at, loss, say)
    host = made.rows.batch(step)
    observation = examples.observed(made.parts.objective, made.recipe.seed, step, host)
    for task, batch, seen in examples.by_task(host, observation):
        say(f"loss per row{examples.of(task)}, largest first (parameters of step {at}):")
        _show_rows(made, step, task, batch, seen, losses, rows, say)
    if other:
        raise DataError(
            "the batch is not the one that the run logged",
            where=f"{workdir}, batch {step}",
            why=f"hash {found} now, {logged['batch_hash']} in metrics.jsonl",
            do="replay with the data, seed, batch size and length of that time (events.jsonl has the changes)",
        )
    return 0


def _show_rows(made: Replay, step: int, task: str, batch, observation, losses: dict, rows: int, say: Callable) -> None:
    """A line for each row of a task, the largest loss first; of the first `rows` also what they are."""
    weights = {name: _per_row(values) for name, values in observation.weights.items()}
    sums = {name: losses[f"{task}/{name}".strip("/")] for name in weights if f"{task}/{name}".strip("/") in losses}
    scored = {name: _mean(values, weights[name]) for name, values in sums.items()}
    order = np.argsort(-sum(scored.values()), kind="stable") if scored else np.arange(len(batch["valid"]))
    numbers = examples.rows_of(made.rows, task).numbers(step)
    for place_, row in enumerate(order):
        terms = ", ".join(f"{name} {values[row]:.4f}" for name, values in scored.items())
        say(f"  row {row:>4} | corpus row {numbers[row]:>8} | {terms}")
        for line in examples.lines(made.data.tokenizer, batch, observation, row) if place_ < rows else ():
            say(f"       {line}")


def open_run(workdir: Path, step: int, say: Callable[[str], None]) -> Replay:
    """The run with its data, and the checkpoint that is best for replaying `step`."""
    recipe = read_recipe(workdir)
    data = prepare(recipe.data, prepared_directory(recipe, workdir), say)
    mesh, (recipe, parts) = recipe.mesh, rebuild(recipe, data.about)
    parts = in_replicas(recipe, parts)
    rows = data.training_rows(parts.objective.reads, recipe.train.batch_size, recipe.seed)
    restored = _restore(workdir / "checkpoints", step, parts, say)
    lines = [record for record in read_metrics(workdir / "metrics.jsonl") if record["step"] == step + 1]
    starts = [
        event for event in read(workdir / "events.jsonl") if event.get("kind") == "start" and event["step"] <= step
    ]
    devices = starts[-1]["devices"] if starts else jax.device_count()
    moved = devices != jax.device_count() or mesh != recipe.mesh
    return Replay(
        workdir / "checkpoints",
        recipe,
        parts,
        data,
        rows,
        restored,
        lines[-1] if lines else {},
        f"{devices} device{'s' if devices > 1 else ''}, here {parts.rules.mesh.size}" if moved else "",
    )


def _restore(directory: Path, step: int, parts: Parts, say: Callable[[str], None]) -> Restored:
    """The newest whole checkpoint at or before the step, else the nearest one after it."""
    steps = steps_in(directory)
    before, after = [at for at in steps if at <= step], [at for at in steps if at > step]
    damaged = []
    for at in (*before[::-1], *after):
        try:
            return _read(directory, at, parts)
        except (MisfitError, FormatError):
            raise
        except CheckpointError as error:
            damaged.append(f"step {at}: {error.what}: {error.why}")
            say(f"warning: step {at} cannot be used: {error.what}: {error.where}: {error.why}")
    raise CheckpointError(
        "there is no checkpoint to replay on",
        where=str(directory),
        why="\n".join(damaged) or "no step is there",
        do="replay while the run still has a checkpoint; `pretrainx data inspect` shows a batch without one",
    )


def _read(directory: Path, at: int, parts: Parts) -> Restored:
    like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    return restore_step(directory, at, like, jax.jit(parts.optimizer.init))


def _losses(made: Replay, step: int, forward: int, say: Callable) -> tuple[int, dict[str, np.ndarray], float]:
    """(step of the parameters, {term: float[B] sums per row}, loss), rolled forward where that is near enough."""
    state, parts = made.restored.state, made.parts
    at = int(state.step)
    run = step_of(parts, state)
    if not 0 <= step - at <= forward:
        where = jax.device_put(np.int32(step), state.step.sharding)
        state = replace(state, step=where)  # the keys and coefficients of that step, the parameters of this one
        say(f"on the checkpoint of step {at}: losses are those that its parameters give to the batch")
        return at, *_measured(run, state, made.batch(step))
    losses, loss = _forward(run, state, made, step)
    # The first pass took the state's memory, so it is read anew.
    losses_again, loss_again = _forward(run, _read(made.directory, at, parts).state, made, step)
    same = all(_same(losses[name], losses_again[name]) for name in losses) and _same(loss, loss_again)
    count = f"{step - at + 1} step{'s' if step > at else ''}"
    say(
        f"{count} from the checkpoint of step {at}, run twice: "
        + ("the same to the bit" if same else f"loss {loss!r}, then {loss_again!r}: it differs here; look at hardware")
    )
    return step, losses, loss


def _forward(run: Callable, state: states.TrainState, made: Replay, step: int) -> tuple[dict[str, np.ndarray], float]:
    for number in range(int(state.step), step):
        state, _ = run(state, made.batch(number))
    return _measured(run, state, made.batch(step))


def _measured(run: Callable, state: states.TrainState, batch: dict) -> tuple[dict[str, np.ndarray], float]:
    """({term: float[B] sums per row}, loss) of one step."""
    _, metrics = run(state, batch)
    metrics = jax.device_get(metrics)
    return {name: np.asarray(values) for name, values in metrics["per_row"].items()}, float(metrics["loss"])


def _same(left: np.ndarray | float, right: np.ndarray | float) -> bool:
    return np.array_equal(left, right, equal_nan=True)


def _verdict(made: Replay, step: int, at: int, loss: float, say: Callable) -> None:
    logged = made.logged.get("train/loss")
    if at != step:
        return say(f"loss {loss:.6f}" + (f", logged {logged:.6f} on the parameters of step {step}" if logged else ""))
    if logged is None:
        return say(f"loss {loss:.6f}; step {step + 1} was not logged (config.train.log_every), nothing to compare with")
    away = abs(loss - logged) / max(abs(logged), 1e-30)
    compute = made.recipe.precision.compute
    if _same(loss, logged):
        say(f"loss {loss:.6f}: reproduces, bit for bit; look at the data or the model")
    elif away <= ROUNDING[compute]:
        why = f"the run had {made.moved}" if made.moved else "other microbatches or versions"
        text = f"loss {loss:.6f}: reproduces to the rounding of {compute}, {away:.1e} off"
        say(f"{text} ({why}); look at the data or the model")
    else:
        say(
            f"loss {loss:.6f}, logged {logged:.6f}: differs by {away:.1e}; the config changed since, or look at hardware"
        )


def _compared(found: str, logged: dict, step: int) -> str:
    if "batch_hash" not in logged:
        return f"not logged (no line of step {step + 1})"
    return "as logged" if logged["batch_hash"] == found else f"but {logged['batch_hash']} was logged"


def _per_row(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).sum(1)


def _mean(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.where(weights > 0, sums / np.where(weights > 0, weights, 1), 0.0)
