"""What a model fills in where text was hidden from it, to read: masked words, spans, noised text; and how often it is right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.wrapper import innermost
from pretrainx.core import random
from pretrainx.core.records import Observation
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evals.continuation import generate
from pretrainx.objectives.masked_lm import MaskedLm
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.objectives.prefix_lm import PrefixLm, PrefixSeq2Seq
from pretrainx.objectives.seq2seq import Seq2Seq
from pretrainx.objectives.span_corruption import SpanCorruption
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain

LOGITS = 2**26  # 256 MiB in float32
GUESSES = 3  # that are shown of each masked word


@functools.partial(jax.jit, static_argnums=(0, 1))
def observed(objective: Objective, rules: Rules, batch: Batch, key: jax.Array, step: jax.Array) -> Observation:
    """The observation that held-out loss makes of a batch with this key, whole on every device."""
    with rules.bound():
        observation = objective.observe_rows(objective.row_keys(key, batch), batch, step)
        return jax.tree.map(lambda x: constrain(x, *[None] * x.ndim), observation)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _likeliest(objective: Objective, rules: Rules, count: int, params, extras, inputs: Batch) -> jax.Array:
    with rules.bound():
        logits = objective.outputs(params, extras, inputs, ("logits",))["logits"]
        best = jnp.argmax(logits, axis=-1)[..., None] if count == 1 else jax.lax.top_k(logits, count)[1]
        return constrain(best.astype(jnp.int32), None, None, None)


def predicted(objective: Objective, rules: Rules, params, extras, inputs: Batch, vocab_size: int) -> np.ndarray:
    """int32[B, T], the likeliest token at each place of inputs, on the host."""
    return likeliest(objective, rules, 1, params, extras, inputs, vocab_size)[..., 0]


def likeliest(
    objective: Objective, rules: Rules, count: int, params, extras, inputs: Batch, vocab_size: int
) -> np.ndarray:
    """int32[B, T, count], the likeliest tokens at each place, best first; so many rows at once as their logits allow."""
    rows, length = inputs["tokens"].shape
    size = rows_at_once(rules, length, vocab_size, rows)
    found = []
    for first in range(0, rows, size):
        part = np.minimum(np.arange(first, first + size), rows - 1)  # the last row again, to a full batch
        ids = _likeliest(objective, rules, count, params, extras, jax.tree.map(lambda x, part=part: x[part], inputs))
        found.append(np.asarray(distributed.settled(ids)))
    return np.concatenate(found)[:rows]


def rows_at_once(rules: Rules, length: int, vocab_size: int, most: int) -> int:
    """How many rows of logits [length, vocab_size] are made together: LOGITS in all, a multiple of what the mesh divides."""
    ways = rules.batch_ways()
    return -(-max(1, min(most, LOGITS // (length * vocab_size))) // ways) * ways


def text_of(observation: Observation) -> jax.Array:
    """int32[B, T]: the tokens that were to be recovered, also where there is a second target beside them."""
    targets = observation.targets
    return targets["tokens"] if isinstance(targets, dict) else targets


def single_tasks(objective: Objective, extras: Any) -> Iterator[tuple[str, Objective, Any]]:
    """(name, objective, extras) of each task of a mixture; of anything else itself, named ""."""
    if not isinstance(objective, Mixture):
        yield "", objective, extras
        return
    for name, task, _ in objective.tasks:
        yield name, task, extras[name]


def writing_on_first(objective: Objective, extras: Any) -> list[tuple[Objective, Any]]:
    """(objective, extras) of the tasks, first those that have learnt how a text goes on: what is asked to go on with one."""
    tasks = [(task, extra) for _, task, extra in single_tasks(objective, extras)]
    return sorted(tasks, key=lambda each: not isinstance(innermost(each[0]), (PrefixLm, PrefixSeq2Seq)))


def by_task(objective: Objective, rules: Rules, seed: int, index: int, batch: Batch) -> dict[str, Observation]:
    """{task: what held-out loss has seen of the batch with this number}, on the host; names as `single_tasks` gives them."""
    key = random.stream(seed, random.EVALUATE, index)
    found = jax.device_get(distributed.settled(observed(objective, rules, batch, key, np.int32(0))))
    return found.inputs if isinstance(objective, Mixture) else {"": found}


def hides_inside(objective: Objective) -> bool:
    """Whether something inside a row is hidden, to be filled in; otherwise a text is only gone on with."""
    return isinstance(innermost(objective), (MaskedLm, Seq2Seq))


@dataclass
class FillIns:
    """Fills in the first rows of a held-out batch, always the same ones with the same key, so that steps can be compared.

    Attributes:
      batch: rows of the objective's batch_spec, placed on the devices.
      decode: ids -> text, without special tokens; vocabulary: names of these.
      rows: how many rows are shown; temperature: of what is drawn for sources beside the likeliest.
    """

    objective: Objective
    rules: Rules
    seed: int
    batch: Any
    decode: Callable[[np.ndarray], str]
    vocabulary: Vocabulary
    rows: int = 3
    temperature: float = 0.8

    def __call__(self, params, extras) -> str:
        """The text of a sample file; tasks of a mixture that hide nothing inside a row are left out."""
        parts = []
        seen = self._seen()
        for name, objective, extra in single_tasks(self.objective, extras):
            if hides_inside(objective) and len(seen[name].valid):
                show = self._spans if isinstance(innermost(objective), Seq2Seq) else self._words
                heading = f"task {name}, " if name else ""
                parts += show(objective, params, extra, seen[name], heading)
        return "\n".join(parts)

    def exact_spans(self, params, extras) -> dict[str, float]:
        """{"exact_spans": share of hidden spans that are written token by token as they were, greedily, "sampled_exact_spans"}.

        Empty where nothing is hidden as spans that sentinels stand for.
        """
        hits, seen = {0.0: [], self.temperature: []}, self._seen()
        for name, objective, extra in single_tasks(self.objective, extras):
            if not isinstance(innermost(objective), SpanCorruption) or not len(seen[name].valid):
                continue
            for temperature, found in hits.items():
                for row, ids in enumerate(self._written(objective, params, extra, seen[name], temperature)):
                    truth, told = (self._by_sentinel(each) for each in (self._target(seen[name], row), ids))
                    found += [np.array_equal(span, told.get(sentinel)) for sentinel, span in truth.items()]
        names = dict(zip(hits, ("exact_spans", "sampled_exact_spans"), strict=True))
        return {names[temperature]: float(np.mean(found)) for temperature, found in hits.items() if found}

    def _seen(self) -> dict[str, Observation]:
        """The first rows of each task."""

        def first(seen: Observation) -> Observation:
            count = min(self.rows, int(seen.valid.sum()))  # rows of padding are the last
            return jax.tree.map(lambda x: x[:count], seen)

        tasks = by_task(self.objective, self.rules, self.seed, 0, self.batch)
        return {name: first(seen) for name, seen in tasks.items()}

    def _words(self, objective, params, extras, observation, heading) -> list[str]:
        """Masked words: the text with [[original -> likeliest, second, third]] at each hidden place."""
        size = self.vocabulary.size
        ids = likeliest(objective, self.rules, min(GUESSES, size), params, extras, observation.inputs, size)
        parts = []
        hiding = observation.weights["nll"] > 0
        for row, (told, truth, hidden) in enumerate(zip(ids, text_of(observation), hiding, strict=True)):
            hits = told[:, 0] == truth
            text, start = "", 0
            for place in np.flatnonzero(hidden).tolist():
                original, *guesses = (visible(self.shown([token])) for token in (truth[place], *told[place]))
                mark = "+" if hits[place] else "-"
                text += f"{self.shown(truth[start:place])}[[{original} -> {', '.join(guesses)} {mark}]]"
                start = place + 1
            text += self.shown(truth[start:])
            counts = f"{hits[hidden].sum()} of {hidden.sum()} right"
            parts.append(f"=== {heading}row {row}: {counts} (+ right, - wrong; best guess first) ===\n{text}\n")
        return parts

    def _spans(self, objective, params, extras, observation, heading) -> list[str]:
        """What is written for a source: span by span where sentinels stand for them, else as a whole."""
        temperatures = {"greedy": 0.0, f"temperature {self.temperature:g}": self.temperature}
        written = {
            name: self._written(objective, params, extras, observation, value) for name, value in temperatures.items()
        }
        width, parts = max(map(len, (*written, "truth"))), []
        for row, source in enumerate(observation.inputs["source"]):
            told = {"truth": self._target(observation, row)} | {name: ids[row] for name, ids in written.items()}
            line = lambda ids: one_line(self.shown(ids))
            lines = [f"=== {heading}row {row} ===", f"{'source':<{width}}  {line(source)}"]
            truth, greedy = (self._by_sentinel(told[name]) for name in ("truth", "greedy"))
            if truth:
                right = sum(np.array_equal(span, greedy.get(name)) for name, span in truth.items())
                lines[0] = f"=== {heading}row {row}: {right} of {len(truth)} spans right, greedy ==="
                for index, sentinel in enumerate(truth):
                    lines.append(f"<S{index}>")
                    for name, ids in told.items():
                        span = self._by_sentinel(ids).get(sentinel)
                        lines.append(f"{name:>{width}}  " + ("(not written)" if span is None else f"[{line(span)}]"))
            else:
                lines += [f"{name:<{width}}  {line(ids)}" for name, ids in told.items()]
            parts.append("\n".join(lines) + "\n")
        return parts

    def _written(self, objective, params, extras, observation, temperature) -> list[np.ndarray]:
        inputs = observation.inputs
        source = {name: values for name, values in inputs.items() if name.startswith("source")}
        count, length = observation.targets.shape
        start = [inputs["tokens"][row, :1] for row in range(count)]
        return generate(
            objective,
            self.rules,
            params,
            extras,
            start,
            length,
            [temperature] * count,
            self.vocabulary.special("eos"),
            self.seed,
            source,
        )

    def _target(self, observation: Observation, row: int) -> np.ndarray:
        """The row's target as `generate` gives it: without the padding and the end behind it."""
        ids = observation.targets[row][observation.weights["nll"][row] > 0]
        return ids[:-1] if len(ids) and ids[-1] == self.vocabulary.special("eos") else ids

    def _by_sentinel(self, ids: np.ndarray) -> dict[int, np.ndarray]:
        """{sentinel: the ids behind it}, of the first of each; {} where there are none."""
        borders = [*np.flatnonzero(np.isin(ids, self.vocabulary.sentinels)).tolist(), len(ids)]
        spans = {}
        for first, last in zip(borders, borders[1:], strict=False):
            spans.setdefault(int(ids[first]), ids[first + 1 : last])
        return spans

    def shown(self, ids: np.ndarray) -> str:
        return named(ids, self.vocabulary, self.decode)


def named(ids: np.ndarray, vocabulary: Vocabulary, decode: Callable[[np.ndarray], str]) -> str:
    """Ids as text: special tokens by name, sentinels as <S0>, <S1>, ...; padding is left out."""
    names = vocabulary.names | {vocabulary.special("pad"): ""}
    ids = np.asarray(ids)
    borders = np.flatnonzero(np.isin(ids, list(names))).tolist()
    return "".join(_pieces(ids, borders, names, decode))


def one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def visible(text: str) -> str:
    """The text of a token on one line, blanks at its ends as a mark: beside others they would not be seen."""
    inside = text.strip(" ")
    before = len(text) - len(text.lstrip(" ")) if inside else len(text)
    return one_line("\u2423" * before + inside + "\u2423" * (len(text) - before - len(inside)))


def _pieces(ids: np.ndarray, borders: Sequence[int], names: dict[int, str], decode) -> Iterator[str]:
    start = 0
    for border in borders:
        yield decode(ids[start:border])
        yield names[int(ids[border])]
        start = border + 1
    yield decode(ids[start:])
