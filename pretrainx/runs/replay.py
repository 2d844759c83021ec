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
from pretrainx.core.json_lines import read_metrics
from pretrainx.data.loader import place
from pretrainx.data.prepared import PreparedText
from pretrainx.data.rows import TrainingRows
from pretrainx.data.text import prepare
from pretrainx.parallel.compilation import keep_compiled_programs
from pretrainx.runs import examples
from pretrainx.runs.load import data_directory, read_recipe, rebuild
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe
from pretrainx.training import state as states
from pretrainx.training.restore import Restored, restore_step, steps_in
from pretrainx.training.step import TrainStep, make_train_step

ROUNDING = 1e-5  # of a float32 loss on other devices or in other microbatches, relatively


@dataclass
class Replay:
    """A run, ready to make any of its steps again."""

    recipe: Recipe
    parts: Parts
    text: PreparedText
    rows: TrainingRows
    restored: Restored
    logged: dict

    def batch(self, step: int) -> dict[str, jax.Array]:
        batch = self.rows.batch(step)
        return place(batch, {name: self.parts.rules.rows(values.shape) for name, values in batch.items()})


def replay(workdir: str | Path, step: int, rows: int = 4, forward: int = 20, say: Callable[[str], None] = print) -> int:
    """Shows batch `step`: row numbers, text before and after `observe`, and the loss of every row; 0.

    The losses come from the train step itself with its keys of that step, on the newest checkpoint at or before it, or else
    on the nearest one. Where that is at most `forward` steps away the run is rolled forward to the step, and the loss is
    compared with the logged one. `rows` of the largest loss are shown as text. Nothing is written.

    Raises ConfigError, CheckpointError, or DataError where the batch is not the one that was logged.
    """
    if step < 0:
        raise ConfigError("steps start at 0", where=f"--step={step}", do="--step=0 is the first batch of the run")
    keep_compiled_programs()
    made = open_run(Path(workdir), step, say)
    logged, found = made.logged, made.rows.record_hash(step)
    say(f"batch {step}, read between steps {step} and {step + 1}: hash {found}, {_compared(found, logged, step)}")
    other = logged.get("batch_hash", found) != found
    at, losses, loss = _losses(made, step, 0 if other else forward, say)
    _verdict(made, step, at, loss, say)
    host = made.rows.batch(step)
    observation = examples.observed(made.parts.objective, made.recipe.seed, step, host)
    weights = {name: _per_row(values) for name, values in observation.weights.items()}
    scored = {name: _mean(losses[name], weights[name]) for name in losses if name in weights}
    order = np.argsort(-sum(scored.values()), kind="stable") if scored else np.arange(len(found))
    say(f"loss per row, largest first (parameters of step {at}):")
    for place_, row in enumerate(order):
        terms = ", ".join(f"{name} {values[row]:.4f}" for name, values in scored.items())
        say(f"  row {row:>4} | corpus row {made.rows.numbers(step)[row]:>8} | {terms}")
        for line in examples.lines(made.text.tokenizer, host, observation, row) if place_ < rows else ():
            say(f"       {line}")
    if other:
        raise DataError(
            "the batch is not the one that the run logged",
            where=f"{workdir}, batch {step}",
            why=f"hash {found} now, {logged['batch_hash']} in metrics.jsonl",
            do="replay with the data, seed, batch size and length of that time (events.jsonl has the changes)",
        )
    return 0


def open_run(workdir: Path, step: int, say: Callable[[str], None]) -> Replay:
    """The run with its data, and the checkpoint that is best for replaying `step`."""
    recipe = read_recipe(workdir)
    directory = data_directory(recipe, workdir)
    if not directory.is_dir():
        raise DataError(
            "the run's data are missing",
            where=str(directory),
            why="no such directory",
            do="copy the run with its data directory, or restore config.data.cache",
        )
    text = prepare(recipe.data, directory, say)
    rows = text.training_rows(recipe.data.length, recipe.train.batch_size, recipe.seed)
    recipe, parts = rebuild(recipe, text.vocabulary)
    restored = _restore(workdir / "checkpoints", step, parts, say)
    lines = [record for record in read_metrics(workdir / "metrics.jsonl") if record["step"] == step + 1]
    return Replay(recipe, parts, text, rows, restored, lines[-1] if lines else {})


def _restore(directory: Path, step: int, parts: Parts, say: Callable[[str], None]) -> Restored:
    """The newest whole checkpoint at or before the step, else the nearest one after it."""
    steps = steps_in(directory)
    before, after = [at for at in steps if at <= step], [at for at in steps if at > step]
    like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    damaged = []
    for at in (*before[::-1], *after):
        try:
            return restore_step(directory, at, like, jax.jit(parts.optimizer.init))
        except CheckpointError as error:
            damaged.append(f"step {at}: {error.what}: {error.why}")
            say(f"warning: step {at} cannot be used: {error.what}: {error.where}: {error.why}")
    raise CheckpointError(
        "there is no checkpoint to replay on",
        where=str(directory),
        why="\n".join(damaged) or "no step is there",
        do="replay while the run still has a checkpoint; `pretrainx data inspect` shows a batch without one",
    )


def _losses(made: Replay, step: int, forward: int, say: Callable) -> tuple[int, dict[str, np.ndarray], float]:
    """(step of the parameters, {term: float[B] sums per row}, loss), rolled forward where that is near enough."""
    state, parts = made.restored.state, made.parts
    at = int(state.step)
    run: TrainStep = make_train_step(parts.objective, parts.optimizer, parts.options, state)
    if 0 <= step - at <= forward:
        for number in range(at, step):
            state, _ = run(state, made.batch(number))
        say(f"rolled forward from the checkpoint of step {at}, {step - at} steps")
        at = step
    else:
        where = jax.device_put(np.int32(step), state.step.sharding)
        state = replace(state, step=where)  # the keys and coefficients of that step, the parameters of this one
        say(f"on the checkpoint of step {at}: losses are those that its parameters give to the batch")
    _, metrics = run(state, made.batch(step))
    metrics = jax.device_get(metrics)
    return at, {name: np.asarray(values) for name, values in metrics["per_row"].items()}, float(metrics["loss"])


def _verdict(made: Replay, step: int, at: int, loss: float, say: Callable) -> None:
    logged = made.logged.get("train/loss")
    if at != step:
        return say(f"loss {loss:.6f}" + (f", logged {logged:.6f} on the parameters of step {step}" if logged else ""))
    if logged is None:
        return say(f"loss {loss:.6f}; step {step + 1} was not logged (config.train.log_every), nothing to compare with")
    away = abs(loss - logged) / max(abs(logged), 1e-30)
    if loss == logged or np.isnan(loss) and np.isnan(logged):
        say(f"loss {loss:.6f}: reproduces, bit for bit; look at the data or the model")
    elif away <= ROUNDING:
        say(f"loss {loss:.6f}: reproduces to rounding, {away:.1e} off (other devices, microbatches or versions)")
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
