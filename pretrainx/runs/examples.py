"""Rows of a batch as a person reads them: what was read, what the model sees of it, what it must recover."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from pretrainx.core import random
from pretrainx.core.records import Observation
from pretrainx.data.rows import TrainingRows
from pretrainx.data.tasks import TaskRows
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.objectives.objective import Batch, Objective

UNSCORED = "[0: ", "]"  # around targets whose weight is zero
NUMBERS = ("tags", "span")  # whole numbers that are no tokens, of labelled text


def observed(objective: Objective, seed: int, step: int, batch: Batch) -> Observation:
    """The observation of a whole batch of host arrays with the keys that the train step of `step` gives its rows."""
    observation = _observe(objective, random.stream(seed, random.OBSERVE, step), batch, np.int32(step))
    return jax.device_get(observation)


@functools.partial(jax.jit, static_argnums=0)
def _observe(objective, key, batch, step):
    return objective.observe_rows(objective.row_keys(key, batch), batch, step)


def by_task(batch: Batch, observation: Observation, name: str = "") -> Iterator[tuple[str, Batch, Observation]]:
    """(task, its batch, its observation) of a mixture's; of an objective that is none itself, named ""."""
    if "valid" in batch:
        yield name, batch, observation
        return
    for task, part in batch.items():
        yield from by_task(part, observation.inputs[task], f"{name}/{task}".strip("/"))


def of(task: str) -> str:
    return f" of the task {task}" if task else ""


def rows_of(rows: TrainingRows | TaskRows, task: str) -> TrainingRows:
    """The training rows of one task, named as `by_task` names it."""
    for name in task.split("/") if task else ():
        rows = rows.tasks[name]
    return rows


def lines(tokenizer: Tokenizer | None, batch: Batch, observation: Observation, row: int, limit: int = 0) -> list[str]:
    """Row `row` of one task before and after `observe`, a line for each array of token ids and the shape of any other.

    `tokenizer`: None where ids are not tokens: then whole numbers are shown as they are. `limit`: characters of text in a
    line; 0 is all of them.
    """
    shown = []
    for name, values in batch.items():
        if name != "valid":
            shown.append((f"batch {name}", text_of(tokenizer, values[row], name)))
    for name, values in _named(observation.inputs, "inputs"):
        shown.append((name, text_of(tokenizer, values[row], name)))
    targets = _named(observation.targets, "targets")
    for term, weights in observation.weights.items():
        fitting = [(name, values) for name, values in targets if values.shape == weights.shape]
        for name, values in fitting:
            known = None if name.endswith(NUMBERS) else tokenizer
            shown.append((f"{name}, {term}", targets_of(known, values[row], weights[row])))
        shown.append((f"weight of {term}", f"{weights[row].sum():g} in {np.count_nonzero(weights[row])} places"))
    width = max(len(name) for name, _ in shown)
    cut = lambda text: text if not limit or len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"
    return [f"{name:<{width}}  {cut(text)}" for name, text in shown]


def text_of(tokenizer: Tokenizer | None, values: np.ndarray, name: str) -> str:
    """Token ids as text on one line, special tokens and sentinels by name; of other arrays what they are."""
    values = np.asarray(values)
    if name.endswith(("segments", "types")):
        return _runs(values)
    if name.endswith("positions"):
        return f"{values.min()} to {values.max()}"
    if not values.ndim:
        return f"{values:g}" if values.dtype != bool else str(bool(values))
    if values.ndim == 1 and values.dtype == bool:
        return f"{values.sum()} of {len(values)}"
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        return f"{values.dtype}{list(values.shape)}"
    if tokenizer is None or name.endswith(NUMBERS):
        return " ".join(map(str, values))
    names = tokenizer.vocabulary.names
    parts, start = [], 0
    marks = [index for index, token in enumerate(values.tolist()) if token in names]
    for index in [*marks, len(values)]:
        if index > start:
            parts.append(_line(tokenizer.decode(values[start:index])))
        if index < len(values):
            mark = names[int(values[index])]
            if parts and index == start and parts[-1].startswith(mark):  # a row's padding is one mark and its count
                count = int(parts[-1].partition(" x ")[2] or 1) + 1
                parts[-1] = f"{mark} x {count}"
            else:
                parts.append(mark)
        start = index + 1
    return "".join(parts)


def targets_of(tokenizer: Tokenizer | None, targets: np.ndarray, weights: np.ndarray) -> str:
    """Targets as text, one of a whole row as its number; those without weight stand in UNSCORED."""
    if not np.ndim(targets):
        return f"{targets:g}" if weights > 0 else f"{targets:g}".join(UNSCORED)
    borders = np.flatnonzero(np.diff(weights > 0)) + 1
    pieces = zip(np.split(targets, borders), np.split(weights, borders), strict=True)
    mark = lambda text, scored: text if scored else text.join(UNSCORED)
    return "".join(mark(text_of(tokenizer, piece, "targets"), weight[0] > 0) for piece, weight in pieces)


def _line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")


def _runs(values: np.ndarray) -> str:
    """1 x 20, 2 x 12: equal neighbours counted."""
    borders = np.flatnonzero(np.diff(values)) + 1
    return ", ".join(f"{piece[0]} x {len(piece)}" for piece in np.split(values, borders))


def _named(tree: Any, name: str) -> Sequence[tuple[str, np.ndarray]]:
    if isinstance(tree, dict):
        return [(f"{name} {key}", np.asarray(value)) for key, value in tree.items() if hasattr(value, "shape")]
    return [(name, np.asarray(tree))] if hasattr(tree, "shape") else []
