"""log p(choice | prompt) in nats by each family of models: what multiple choice compares."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.core.errors import ConfigError
from pretrainx.evals.choices import Pair
from pretrainx.evals.fill_in import rows_at_once, writing_on_first
from pretrainx.evals.pseudo_perplexity import log_probabilities
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.cross_entropy import token_nll
from pretrainx.objectives.masked_lm import MaskedLm, marks
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.objectives.prefix_lm import PrefixLm
from pretrainx.objectives.seq2seq import Seq2Seq
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain

MOST, SHORTEST = 32, 16  # rows of a batch; widths are powers of two from here on, so that there are few programs


@functools.partial(jax.jit, static_argnums=(0, 1))
def row_log_probabilities(objective: Objective, rules: Rules, params, extras, inputs, targets, scored) -> jax.Array:
    """float32[B], the sum of log p(target) over the targets int32[B, T] where scored bool[B, T]."""
    with rules.bound():
        logits = objective.outputs(params, extras, inputs, ("logits",))["logits"]
        return constrain(-jnp.where(scored, token_nll(logits, targets), 0).sum(axis=1), None)


@dataclass(frozen=True, eq=False)
class Likelihood:
    """log p(choice | prompt), the sum over the choice's tokens: called with pairs -> float64[n].

    Rows are padded behind, where nothing looks, so the answer depends neither on padding nor on the batch.

    Attributes:
      task: the objective without its wrappers, whose form of rows is asked in.
      longest: the most tokens of a row (of a source); a longer prompt loses its beginning.
      rows: of a batch; 0 chooses by size.
    """

    objective: Objective
    task: Objective
    rules: Rules
    params: Any
    extras: Any
    longest: int
    rows: int = 0

    def __call__(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Raises ConfigError for a choice that leaves no place for a prompt."""
        raise TypeError(f"{type(self).__name__} must score pairs")

    def special(self, name: str) -> int:
        return self.task.vocabulary.special(name)

    def fitting(self, pair: Pair, room: int) -> np.ndarray:
        """The end of the prompt that fits into `room` tokens; an empty one is the end of another document."""
        if room < 1:
            raise ConfigError(
                "a choice is longer than the model can read",
                where="--choices",
                why=f"{len(pair.choice)} tokens of a choice, and at least one before it; rows have {self.longest}",
                do="ask for shorter choices",
            )
        prompt = pair.prompt if len(pair.prompt) else np.array([self.special("eos")], np.int32)
        return prompt[-room:]

    def batched(self, keys: Sequence[tuple[int, ...]]) -> Iterator[np.ndarray]:
        """The numbers of rows of equal widths `keys`, so many at a time as a batch has."""
        for key in sorted(set(keys)):
            members, size = np.array([index for index, other in enumerate(keys) if other == key]), self.size(key[-1])
            yield from np.split(members, range(size, len(members), size))

    def size(self, width: int) -> int:
        return self.rows or rows_at_once(self.rules, width, self.task.vocabulary.size, MOST)

    def filled(self, rows: Sequence[np.ndarray], width: int, size: int) -> np.ndarray:
        """int32[size, width], padded; rows that are missing to a batch are padding."""
        found = np.full((size, width), self.special("pad"), np.int32)
        for place, row in enumerate(rows):
            found[place, : len(row)] = row
        return found

    def scored(self, inputs: Batch, targets: np.ndarray, last: Sequence[tuple[int, int]]) -> np.ndarray:
        """float64[n]: of row i, over the targets from last[i][0] up to last[i][1]."""
        scored = np.zeros(targets.shape, bool)
        for row, (first, end) in enumerate(last):
            scored[row, first:end] = True
        found = row_log_probabilities(self.objective, self.rules, self.params, self.extras, inputs, targets, scored)
        return np.asarray(distributed.settled(found), np.float64)[: len(last)]


class OfDecoder(Likelihood):
    """Prompt and choice are one row. A prefix LM reads the prompt both ways."""

    def __call__(self, pairs):
        rows, front = [], self.task.front if isinstance(self.task, PrefixLm) else ()
        for pair in pairs:
            prompt = self.fitting(pair, self.longest + 1 - len(front) - len(pair.choice))
            rows.append(np.array([*front, *prompt, *pair.choice], np.int32))
        sizes = [len(pair.choice) for pair in pairs]
        found = np.zeros(len(pairs))
        widths = [(rounded(len(row) - 1, self.longest),) for row in rows]
        for part in self.batched(widths):
            (width,) = widths[part[0]]
            tokens = self.filled([rows[index] for index in part], width + 1, self.size(width))
            inputs = {"tokens": tokens[:, :-1]}
            if isinstance(self.task, PrefixLm):
                inputs["prefix"] = np.ones(len(tokens), np.int32)
                inputs["prefix"][: len(part)] = [len(rows[index]) - sizes[index] for index in part]
            last = [(len(rows[index]) - 1 - sizes[index], len(rows[index]) - 1) for index in part]
            found[part] = self.scored(inputs, tokens[:, 1:], last)
        return found


class OfSource(Likelihood):
    """The prompt is the source and the choice what the decoder writes, in the form that the objective has taught.

    Span corruption: the source ends in the first sentinel and the end of text, and the choice follows that sentinel. Denoising:
    the source is the prompt and one mask, and the choice follows the prompt that the decoder writes first. Prefix LM: the
    source is the prompt.
    """

    def __call__(self, pairs):
        asked = [self.asked(pair) for pair in pairs]
        found = np.zeros(len(pairs))
        limit = self.task.widths[1] if self.task.model.config.positions == "learned" else max(self.task.widths)
        for pair, (_, given) in zip(pairs, asked, strict=True):
            self.fitting(pair, limit + 2 - len(given) - len(pair.choice))
        written = [np.concatenate([given, pair.choice]) for pair, (_, given) in zip(pairs, asked, strict=True)]
        widths = [
            (rounded(len(source), self.task.widths[0]), rounded(len(row) - 1, limit))
            for (source, _), row in zip(asked, written, strict=True)
        ]
        for part in self.batched(widths):
            width, target = widths[part[0]]
            size, source = self.size(target), [asked[index][0] for index in part]
            tokens = self.filled([written[index] for index in part], target + 1, size)
            lengths = np.ones(len(tokens), np.int32)  # a row of padding has one token: softmax over none is no number
            lengths[: len(part)] = [len(row) for row in source]
            inputs = {"source": self.filled(source, width, size), "source_length": lengths, "tokens": tokens[:, :-1]}
            last = [(len(written[i]) - 1 - len(pairs[i].choice), len(written[i]) - 1) for i in part]
            found[part] = self.scored(inputs, tokens[:, 1:], last)
        return found

    def asked(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """(source, what the decoder has read before the choice)"""
        marks, _ = self.task.asking(np.zeros(0, np.int32))
        # A decoder that writes the prompt first must have room for the choice behind it.
        room = self.task.widths[0] - len(marks) - (len(pair.choice) if self.task.echoes else 0)
        return self.task.asking(self.fitting(pair, room))


class OfMasked(Likelihood):
    """Cloze: the pseudo-log-likelihood of the choice, each of its tokens hidden alone between the prompt and the others."""

    def __call__(self, pairs):
        framed, rows = self.task.config.special_tokens, []
        begin, end = ([[mark] for mark in marks(self.task.vocabulary)]) if framed else ([], [])
        for pair in pairs:
            prompt = self.fitting(pair, self.longest - 2 * framed - len(pair.choice))
            rows.append(np.concatenate([begin, prompt, pair.choice, end]))
        found = np.zeros(len(pairs))
        widths = [(rounded(len(row), self.longest),) for row in rows]
        for part in self.batched(widths):
            (width,) = widths[part[0]]
            tokens = self.filled([rows[index] for index in part], width, self.size(width))
            real = [len(rows[index]) for index in part] + [1] * (len(tokens) - len(part))
            inputs = {
                "tokens": tokens,
                "segments": (np.arange(tokens.shape[1]) < np.array(real)[:, None]).astype(np.int32),
            }
            sizes = [len(pairs[index].choice) for index in part]
            places = [np.arange(size) + len(rows[i]) - framed - size for i, size in zip(part, sizes, strict=True)]
            owners = np.repeat(np.arange(len(part)), sizes)
            scored = log_probabilities(
                self.objective,
                self.rules,
                self.special("mask"),
                self.task.vocabulary.size,
                self.params,
                self.extras,
                inputs,
                owners,
                np.concatenate(places),
            )
            found[part] = np.bincount(owners, scored, len(part))
        return found


def likelihood(objective: Objective, rules: Rules, params: Any, extras: Any, longest: int) -> Likelihood:
    """What scores choices by this objective's model; of a mixture the task that goes on with texts, else the first that writes.

    Raises ConfigError for a model that predicts no tokens.
    """
    fitting = [each for each in writing_on_first(objective, extras) if kind_of(innermost(each[0]))]
    if not fitting:
        raise ConfigError(
            "the model cannot weigh choices",
            where="--evals=choices",
            why=f"{type(innermost(objective)).__name__} predicts no tokens of a text",
            do="leave 'choices' out",
        )
    task, extra = fitting[0]
    return kind_of(innermost(task))(task, innermost(task), rules, params, extra, longest)


def kind_of(task: Objective) -> type[Likelihood] | None:
    if isinstance(task, MaskedLm):
        return OfMasked if task.model.config.head != "none" else None
    kinds = {Autoregressive: OfDecoder, Seq2Seq: OfSource}
    return next((of for objective, of in kinds.items() if isinstance(task, objective)), None)


def rounded(length: int, longest: int) -> int:
    return min(max(SHORTEST, 1 << max(length - 1, 0).bit_length()), longest)
