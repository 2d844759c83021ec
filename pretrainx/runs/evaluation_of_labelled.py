"""What is evaluated during a run on labelled text: held-out loss and metrics, and at the end the test split."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from pretrainx.data.labelled_columns import UNLABELLED
from pretrainx.data.prepared_labelled import HeldOutExamples, PreparedLabelled
from pretrainx.evals.task_scores import TaskScores
from pretrainx.runs.data import last_split
from pretrainx.runs.evaluation import Evaluation


class LabelledEvaluation(Evaluation):
    """Held-out loss and metrics; at the last step {"test/loss", "test/metric/<name>", "test/half_width/<name>"}, and beside
    them what is reached without reading: {"test/majority"} or {"test/constant_error"}. Without a test split the last three are
    of the held-out one."""

    data: PreparedLabelled

    @functools.cached_property
    def held_out_rows(self) -> dict[str, HeldOutExamples]:
        return {"": self.examples_of("held_out")}

    def examples_of(self, split: str) -> HeldOutExamples:
        return self.data.held_out("", self.parts.objective.reads, self.recipe.evals.limit, split)

    @property
    def last_split(self) -> str:
        return last_split(self.data)

    @functools.cached_property
    def last_scores(self) -> TaskScores:
        batches = self.batches(self.examples_of(self.last_split))
        return TaskScores(self.parts.objective, self.parts.rules, self.recipe.seed, batches)

    def beyond(self, params, extras, step: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        return {} if step < self.recipe.train.steps else self.finished(params, extras, step, stop)

    def finished(self, params, extras, step: int, stop: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """{"<split>/<metric>": value} of a finished run; None where `stop()` became true on the way."""
        found = self.last_scores(params, extras, step, stop)
        if not found:
            return None
        return {f"{self.last_split}/{name}": value for name, value in (found | self.without_reading()).items()}

    def without_reading(self) -> dict[str, float]:
        """{"majority": the share of the training split's most frequent class or tag} of what is measured, or {"constant_error":
        the squared error of the training labels' mean}; {} where labels are texts or spans."""
        target = self.data.about.target
        if target in ("span", "text"):
            return {}
        labels, trained_on = (
            self.examples_of(self.last_split).labels,
            self.data.rows("train", self.parts.objective.reads),
        )
        if target == "number":
            return {"constant_error": float(((labels - self.data.about.mean) ** 2).mean())}
        known = trained_on.labels_of(len(trained_on))
        counts = np.bincount(known[known != UNLABELLED], minlength=len(self.data.about.classes))
        return {"majority": float((labels[labels != UNLABELLED] == counts.argmax()).mean())}
