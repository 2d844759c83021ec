"""How good a downstream task is done on a split: loss and metrics, with the half-width of a 95 % interval of each metric."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.core import random
from pretrainx.evals.held_out import add
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain

NORMAL = 1.96  # standard deviations within which 95 % of a normal distribution lie


@functools.partial(jax.jit, static_argnums=(0, 1))
def judge(objective: Objective, rules: Rules, params, extras, batch: Batch, key: jax.Array, step: jax.Array):
    """({term: weighted sum}, {term: weight}, {metric: (float[B], float[B])}) of one batch, without dropout."""
    with rules.bound():
        keys = objective.row_keys(key, batch)
        observation = objective.observe_rows(keys, batch, step)
        outcome = objective.encode(params, extras, observation, keys, step, train=False)
        # `encode` keeps sums, and the interval needs each example. This is the same forward pass: the compiler makes it once.
        logits = objective.outputs(params, extras, observation.inputs, ("logits",))["logits"]
        judged = innermost(objective).judged(logits, observation)
        weights = {name: weight.sum() for name, weight in observation.weights.items()}
        # Whole on each device, where any process can read them.
        return outcome.totals, weights, jax.tree.map(lambda leaf: constrain(leaf, None), judged)


@dataclass
class TaskScores:
    """The loss and metrics of one split.

    The interval is that of a ratio of sums over examples, each example a draw of its own (tokens of one text are not): for
    an accuracy of n examples 1.96 sqrt(p (1 - p) / n).

    Attributes:
      batches: the placed batches.
    """

    objective: Objective
    rules: Rules
    seed: int
    batches: Sequence[Batch]

    def __call__(self, params, extras, step, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """{"loss", "metric/<name>", "half_width/<name>"}; {} when `stop()` became true on the way."""
        totals, weights, rows = {}, {}, {}
        for index, batch in enumerate(self.batches):
            if stop():
                return {}
            key = random.stream(self.seed, random.EVALUATE, index)
            found = judge(self.objective, self.rules, params, extras, batch, key, np.int32(step))
            total, weight, judged = jax.device_get(distributed.settled(found))
            add(totals, total)
            add(weights, weight)
            for name, values in judged.items():
                rows.setdefault(name, []).append(np.asarray(values, np.float64))
        mean = lambda name: float(totals[name] / weights[name]) if weights[name] > 0 else 0.0
        result = {
            "loss": float(sum(term.at(step) * mean(term.name) for term in self.objective.terms if term.name in totals))
        }
        for name, parts in rows.items():
            value, half_width = ratio(*np.concatenate(parts, axis=1))
            result |= {f"metric/{name}": value, f"half_width/{name}": half_width}
        return result


def ratio(totals: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """(sum of totals / sum of weights, half-width of its 95 % interval), of examples float64[n] each (the delta method)."""
    whole = weights.sum()
    if whole <= 0:
        return 0.0, 0.0
    value = totals.sum() / whole
    return float(value), float(NORMAL * np.sqrt(((totals - value * weights) ** 2).sum()) / whole)
