"""Held-out loss: the objective's own terms on a split that training never sees."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from pretrainx.core import random
from pretrainx.core.records import Outcome
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(objective: Objective, rules: Rules, params, extras, batch: Batch, key: jax.Array, step: jax.Array):
    """({term: weighted sum}, {term: weight}, {metric: Mean}) of one batch, without dropout."""
    with rules.bound():
        keys = objective.row_keys(key, batch)
        observation = objective.observe_rows(keys, batch, step)
        outcome = objective.encode(params, extras, observation, keys, step, train=False)
        joint = Outcome()
        if jax.tree.leaves(outcome.representations):
            joint = objective.couple(params, extras, outcome.representations, observation, step)
        weights = {name: weight.sum() for name, weight in observation.weights.items()}
        return outcome.totals | joint.totals, weights, outcome.metrics | joint.metrics


@dataclass
class HeldOut:
    """Mean of each term over all held-out rows. Keys are of (seed, batch index), not of the step: masked losses of two steps
    are comparable.

    Attributes:
      batches: the placed batches, always the same.
      bytes_of_text: bytes that the targets stand for; with it, `bits_per_byte` of the term `nll` is reported.
    """

    objective: Objective
    rules: Rules
    seed: int
    batches: Sequence[Batch]
    bytes_of_text: int = 0

    def __call__(self, params, extras, step, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """{"loss", "loss_error", "term/<name>", "bits_per_byte", "metric/<name>"}; {} when `stop()` became true on the way."""
        totals, weights, means, each = {}, {}, {}, []
        for index, batch in enumerate(self.batches):
            if stop():
                return {}
            key = random.stream(self.seed, random.EVALUATE, index)
            found = distributed.settled(score(self.objective, self.rules, params, extras, batch, key, step))
            for total, weight, mean in [jax.device_get(found)]:
                add(totals, total)
                add(weights, weight)
                each.append((total, weight))
                add(means, {name: np.array([value.total, value.weight]) for name, value in mean.items()})
        terms = {name: float(total / weights[name]) if weights[name] > 0 else 0.0 for name, total in totals.items()}
        shares = {term.name: float(term.at(step)) for term in self.objective.terms}
        result = {"loss": float(sum(share * terms[name] for name, share in shares.items()))}
        if len(each) > 1:
            result["loss_error"] = standard_error(each, shares)
        if self.bytes_of_text and "nll" in totals:
            result["bits_per_byte"] = float(totals["nll"]) / math.log(2) / self.bytes_of_text
        result |= {f"term/{name}": value for name, value in terms.items()} if len(terms) > 1 else {}
        return result | {
            f"metric/{name}": float(total / weight) for name, (total, weight) in means.items() if weight > 0
        }


def standard_error(batches: Sequence[tuple[dict, dict]], shares: dict[str, float]) -> float:
    """Of the mean loss over all batches, from how much they differ: B / (B - 1) times the sum of squares of what each adds to
    the mean beyond its weight (a ratio of sums; Cochran 1977, Sampling Techniques, equation 6.13).

    Args:
      batches: ({term: weighted sum}, {term: weight}) of each of B > 1. shares: {term: its coefficient in the loss}.
    """
    beyond = np.zeros(len(batches))
    for name, share in shares.items():
        total, weight = (np.array([np.float64(batch[part][name]) for batch in batches]) for part in (0, 1))
        if weight.sum() > 0:
            beyond += share * (total - total.sum() / weight.sum() * weight) / weight.sum()
    return float(np.sqrt(len(batches) / (len(batches) - 1) * (beyond**2).sum()))


def add(sums: dict, values: dict) -> None:
    """Adds in float64: a split of millions of tokens does not lose its last digits."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + np.asarray(value, np.float64)
