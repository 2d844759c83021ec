"""Training batches of a mixture of tasks: each goes through the same text in an order of its own."""

from __future__ import annotations

import hashlib

import numpy as np

from pretrainx.data.rows import Batch, TrainingRows


class TaskRows:
    """Batches by step, {task: {field: array}}; a task has the same number of rows in every step.

    Attributes:
      tasks: {task: its training rows}; batch_size: the rows of all of them.
    """

    def __init__(self, tasks: dict[str, TrainingRows]):
        self.tasks = tasks
        self.batch_size = sum(rows.batch_size for rows in tasks.values())

    def first_row(self, step: int) -> int:
        """How many rows the steps before have read."""
        return step * self.batch_size

    def epoch(self, step: int) -> int:
        """The largest of the tasks' epochs."""
        return max(rows.epoch(step) for rows in self.tasks.values())

    def numbers(self, step: int) -> np.ndarray:
        """int64[B]: the rows of the corpus that each task reads, one task after the other."""
        return np.concatenate([rows.numbers(step) for rows in self.tasks.values()])

    def batch(self, step: int) -> dict[str, Batch]:
        """Each task's batch. Raises DataError naming the step when a token id lies outside the vocabulary."""
        return {name: rows.batch(step) for name, rows in self.tasks.items()}

    def record_hash(self, step: int) -> str:
        """Twelve hex digits that name the rows of a step's batch, of all tasks, and their order."""
        return hashlib.sha256(self.numbers(step).astype("<i8").tobytes()).hexdigest()[:12]
