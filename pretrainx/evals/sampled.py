"""How good text is that a decoder writes by itself, beside the text that it was held against.

A model is trained on true beginnings and writes after its own; errors may add up (Bengio et al. 2015, arXiv:1506.03099). Its
samples are judged by a trigram model of the training text, which knows nothing of it: samples that fall apart have a higher
loss than held-out text, samples that repeat themselves a far lower one and few distinct n-grams (Li et al. 2016,
arXiv:1510.03055, section 5.2: distinct-n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrainx.evals.continuation import generate
from pretrainx.evals.ngram import Trigram
from pretrainx.objectives.objective import Objective
from pretrainx.parallel.rules import Rules

GRAMS = (1, 2, 3)


def distinct(sequences: Sequence[np.ndarray], n: int) -> float:
    """How many of all n-grams of the sequences, int[m] each, are different ones: 1 where none occurs twice; 0 without any."""
    grams = [
        tuple(row[place : place + n]) for row in map(np.ndarray.tolist, sequences) for place in range(len(row) - n + 1)
    ]
    return len(set(grams)) / max(len(grams), 1)


def judged(model: Trigram, prompts: Sequence[np.ndarray], written: Sequence[np.ndarray]) -> dict[str, float]:
    """{"trigram_loss": nats per token of what follows the prompts, "distinct_<n>": ..., "tokens": its length}."""
    pairs = [(prompt, row) for prompt, row in zip(prompts, written, strict=True) if len(row)]
    after = [model.losses(np.concatenate(pair))[len(pair[0]) - 1 :] for pair in pairs]
    losses = np.concatenate([*after, np.zeros(0)])
    found = {"trigram_loss": float(losses.mean())} if len(losses) else {}
    return found | {f"distinct_{n}": distinct(written, n) for n in GRAMS} | {"tokens": float(len(losses))}


@dataclass(frozen=True, eq=False)
class Sampled:
    """Continues held-out beginnings at temperature 1 and greedily, and judges both beside how the text goes on.

    Attributes:
      texts: int[n] each, held-out text; the first half of each is the prompt.
      model: fitted on the training text.
      end: the id that ends a document: nothing is judged from it on, of samples and of the text.
    """

    objective: Objective
    rules: Rules
    texts: Sequence[np.ndarray]
    model: Trigram
    end: int
    seed: int

    def __call__(self, params, extras) -> dict[str, float]:
        """{"trigram_loss", "distinct_1", ...} of samples; the same under "greedy/" and, of the text, under "held_out/"."""
        prompts = [np.asarray(text[: len(text) // 2], np.int32) for text in self.texts]
        rest = [np.asarray(text[len(text) // 2 :]) for text in self.texts]
        count = max(map(len, rest))
        run = lambda temperature: generate(
            self.objective,
            self.rules,
            params,
            extras,
            prompts,
            count,
            [temperature] * len(prompts),
            self.end,
            self.seed,
        )
        before_end = lambda row: row[: int(np.argmax(row == self.end))] if (row == self.end).any() else row
        written = {"": run(1.0), "greedy/": run(0.0), "held_out/": [before_end(row) for row in rest]}
        judge = lambda rows: judged(self.model, prompts, rows)
        return {f"{kind}{name}": value for kind, rows in written.items() for name, value in judge(rows).items()}
