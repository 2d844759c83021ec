"""Pseudo-log-likelihood of masked language models: each token of a row is hidden alone and predicted from all the others
(Wang and Cho 2019, arXiv:1902.04094; Salazar et al. 2020, arXiv:1910.14659, section 2).

The sum over tokens is no log-probability of the row: every token is predicted from both sides, so its figures lie far below
those of a causal model and compare only among masked ones with the same tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evals.fill_in import by_task, rows_at_once, text_of
from pretrainx.objectives.cross_entropy import token_nll
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain

COPIES = 64  # of a batch of masked copies, at most


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _log_probabilities(
    objective: Objective, rules: Rules, mask: int, params, extras, inputs, rows, places
) -> jax.Array:
    """float32[n], log p(token at places[i] of row rows[i] | the rest of that row)."""
    with rules.bound():
        copies = jax.tree.map(lambda x: constrain(x[rows], "batch", *[None] * (x.ndim - 1)), inputs)
        truth = jnp.take_along_axis(copies["tokens"], places[:, None], axis=1)
        hidden = jnp.arange(copies["tokens"].shape[1]) == places[:, None]
        copies["tokens"] = jnp.where(hidden, mask, copies["tokens"])
        logits = objective.outputs(params, extras, copies, ("logits",))["logits"]
        at_place = jnp.take_along_axis(logits, places[:, None, None], axis=1)
        return constrain(-token_nll(at_place, truth)[:, 0], None)


def log_probabilities(
    objective: Objective,
    rules: Rules,
    mask: int,
    vocab_size: int,
    params: Any,
    extras: Any,
    inputs: Batch,
    rows: np.ndarray,
    places: np.ndarray,
    copies: int = 0,
) -> np.ndarray:
    """float64[n], log p(token at places[i] of row rows[i] | all other tokens of that row), in nats.

    inputs: what the model reads, not masked, {"tokens": int32[B, T], ...} on the host; mask: the id of the mask token.
    copies: masked copies of a batch; 0 chooses by size. The result does not depend on it.
    """
    size = rows_at_once(rules, inputs["tokens"].shape[1], vocab_size, COPIES) if not copies else copies
    found = np.zeros(len(rows))
    for first in range(0, len(rows), size):
        # The last batch is filled up with row 0, place 0, and what it says of them is dropped.
        part = np.zeros((2, size), np.int32)
        count = len(rows[first : first + size])
        part[:, :count] = rows[first : first + size], places[first : first + size]
        scored = _log_probabilities(objective, rules, mask, params, extras, inputs, *part)
        found[first : first + size] = np.asarray(distributed.settled(scored), np.float64)[:count]
    return found


@dataclass(frozen=True, eq=False)
class PseudoPerplexity:
    """Pseudo-perplexity on the first held-out rows: T passes over a row of T tokens, so few rows.

    Attributes:
      batches: held-out batches of the objective's batch_spec, on the devices; rows: how many of their rows are read.
      bytes_per_token: int32[V], for pseudo_bits_per_byte.
    """

    objective: Objective
    rules: Rules
    seed: int
    batches: Sequence[Any]
    vocabulary: Vocabulary
    bytes_per_token: np.ndarray
    rows: int = 16

    def __call__(self, params, extras) -> dict[str, float]:
        """{"nll": nats per token, "perplexity": its exponential, "pseudo_bits_per_byte", "tokens": of so many}.

        Special tokens and padding are read, and not predicted.
        """
        never = [token for _, token in self.vocabulary.specials] + list(self.vocabulary.sentinels)
        total, left, tokens = 0.0, self.rows, []
        for index, batch in enumerate(self.batches):
            if left <= 0:
                break
            (seen,) = by_task(self.objective, self.rules, self.seed, index, batch).values()
            take = np.flatnonzero(seen.valid)[:left]
            left -= len(take)
            inputs = jax.tree.map(lambda x, take=take: x[take], seen.inputs | {"tokens": text_of(seen)})
            real = (inputs["segments"] > 0) & ~np.isin(inputs["tokens"], never)
            rows, places = np.nonzero(real)
            scored = log_probabilities(
                self.objective,
                self.rules,
                self.vocabulary.special("mask"),
                self.vocabulary.size,
                params,
                extras,
                inputs,
                rows,
                places,
            )
            total -= scored.sum()
            tokens.append(inputs["tokens"][rows, places])
        tokens = np.concatenate(tokens)
        nll = total / max(len(tokens), 1)
        size = int(self.bytes_per_token[tokens].sum())
        return {
            "nll": nll,
            "perplexity": math.exp(nll) if nll < 700 else math.inf,
            **({"pseudo_bits_per_byte": total / math.log(2) / size} if size else {}),
            "tokens": float(len(tokens)),
        }
