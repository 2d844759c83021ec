"""Whether a model fills in better than a trigram model does: both on the same hidden places of the same held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrainx.adapt.wrapper import innermost
from pretrainx.core.records import Observation
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evals import ngram
from pretrainx.evals.fill_in import by_task, likeliest, single_tasks, text_of
from pretrainx.objectives.masked_lm import MaskedLm
from pretrainx.objectives.objective import Objective
from pretrainx.objectives.span_corruption import SpanCorruption
from pretrainx.parallel.rules import Rules

ENOUGH = 10_000  # hidden tokens: the accuracy is then known to half a percent


@dataclass(frozen=True, eq=False)
class Baseline:
    """Masked words and spans, guessed by the model and by a trigram model: words from two neighbours on either side, in spans
    from the two true tokens before each (`ngram.fill_in`, `ngram.next_words`).

    Of masked words twice: with the neighbours that the model sees too, and with those that it has to do without as well.

    Attributes:
      batches: the held-out batches with the numbers that held-out loss gives them, so that the masks are its own.
      model: fitted on the training text. enough: after so many hidden tokens no further batch is begun.
    """

    objective: Objective
    rules: Rules
    seed: int
    batches: Sequence[Any]
    model: ngram.Trigram
    vocabulary: Vocabulary
    enough: int = ENOUGH

    def __call__(self, params, extras) -> dict[str, float]:
        """{"accuracy": the trigram model's, "all_neighbours": its own of masked words with neighbours that are hidden,
        "model_accuracy", "tokens": on so many}; {} where nothing of the kind is hidden."""
        told, guessed, knowing = [], [], []
        for index, batch in enumerate(self.batches):
            if sum(map(len, told)) >= self.enough:
                break
            tasks = by_task(self.objective, self.rules, self.seed, index, batch)
            for name, objective, extra in single_tasks(self.objective, extras):
                of = innermost(objective)
                if not isinstance(of, (MaskedLm, SpanCorruption)):
                    continue
                seen = tasks[name]
                ids = self._told(objective, params, extra, seen.inputs, isinstance(of, SpanCorruption))
                for row in np.flatnonzero(seen.valid):
                    best = None
                    if isinstance(of, MaskedLm):
                        places, baseline, best = self._words(seen, row)
                    else:
                        places, baseline = self._spans(seen, row)
                    truth = text_of(seen)[row][places]
                    told.append(ids[row][places] == truth)
                    guessed.append(baseline == truth)
                    knowing += [] if best is None else [best == truth]
        if not sum(map(len, told)):
            return {}
        told = np.concatenate(told)
        found = {"accuracy": float(np.concatenate(guessed).mean())}
        if knowing:
            found["all_neighbours"] = float(np.concatenate(knowing).mean())
        return found | {"model_accuracy": float(told.mean()), "tokens": float(len(told))}

    def _told(self, objective, params, extras, inputs, in_spans: bool) -> np.ndarray:
        """int32[B, T], the model's guesses. In spans the likeliest of all but marks: the trigram model too knows that text
        stands there, and where a span may end at any token its end is often the likeliest of all."""
        marks = (*self.vocabulary.sentinels, *(token for _, token in self.vocabulary.specials)) if in_spans else ()
        size = self.vocabulary.size
        best = likeliest(objective, self.rules, len(set(marks)) + 1, params, extras, inputs, size)
        chosen = (~np.isin(best, marks)).argmax(-1)
        return np.take_along_axis(best, chosen[..., None], -1)[..., 0]

    def _words(self, seen: Observation, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(hidden places of the row, the trigram model's guesses, its guesses from all neighbours); neighbours are of the same
        segment."""
        targets, weights, segments = text_of(seen)[row], seen.weights["nll"][row], seen.inputs["segments"][row]
        places, guesses, knowing = [], [], []
        for segment in np.unique(segments[weights > 0]):
            members = np.flatnonzero(segments == segment)
            hidden = np.flatnonzero(weights[members] > 0)
            places.append(members[hidden])
            guesses.append(ngram.fill_in(self.model, targets[members], hidden, hidden=True))
            knowing.append(ngram.fill_in(self.model, targets[members], hidden))
        none = [np.zeros(0, np.int64)]
        return tuple(np.concatenate(each + none) for each in (places, guesses, knowing))

    def _spans(self, seen: Observation, row: int) -> tuple[np.ndarray, np.ndarray]:
        """(places of the target that were text of spans, the trigram model's guesses after the true text before)."""
        target = seen.targets[row][seen.weights["nll"][row] > 0]
        source = seen.inputs["source"][row][: seen.inputs["source_length"][row]]
        text, inside, places = restored(source, target, self.vocabulary)
        return places, ngram.next_words(self.model, text, inside)


def restored(
    source: np.ndarray, target: np.ndarray, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(text int[n], where in it the tokens of spans are, where these are in the target) of int[s] and int[t] without padding.

    Each sentinel of the source gives way to what follows it in the target. Nothing is a span where there are no sentinels.
    """
    ends = np.isin(target, vocabulary.sentinels)
    if len(target) and target[-1] == vocabulary.special("eos"):
        ends[-1] = True  # of the target, no token of the last span
    borders = [*np.flatnonzero(ends).tolist(), len(target)]
    spans = {int(target[first]): range(first + 1, last) for first, last in zip(borders, borders[1:], strict=False)}
    text: list[int] = []
    inside: list[int] = []
    places: list[int] = []
    for token in source.tolist():
        span = spans.get(token) if token in vocabulary.sentinels else None
        if span is None:
            text.append(token)
            continue
        inside += range(len(text), len(text) + len(span))
        places += span
        text += target[span.start : span.stop].tolist()
    return np.array(text), np.array(inside, np.int64), np.array(places, np.int64)
