"""Multiple choice by log-probability: the choice that the model finds likeliest after the prompt, in four normalisations.

`none` compares log p(choice | prompt); `token` and `byte` divide it by the choice's length (Brown et al. 2020,
arXiv:2005.14165, section 2.4); `pmi` subtracts log p(choice | a neutral prompt), so that a choice does not win by being a
common string (Holtzman et al. 2021, arXiv:2104.08315; the same section of Brown et al. for some sets).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrainx.core.errors import ConfigError, DataError

NORMALISATIONS = ("none", "token", "byte", "pmi")
BETWEEN, NEUTRAL = "\n\n", "Answer:"  # two examples of a prompt; the prompt that tells nothing


@dataclass(frozen=True)
class Question:
    """One item: a prompt, what may follow it (`joined`), and the number of the right choice."""

    prompt: str
    choices: tuple[str, ...]
    answer: int

    def solved(self) -> str:
        """The text of a demonstration."""
        return joined(self.prompt, self.choices[self.answer])


def blank_after(prompt: str) -> str:
    """What stands between a prompt and a choice: nothing where the prompt ends a line or is empty."""
    return "" if prompt.endswith("\n") or not prompt else " "


def joined(prompt: str, choice: str) -> str:
    return prompt + blank_after(prompt) + choice


def neutral_for(prompt: str) -> str:
    """The neutral prompt after which a choice is written as it is after this one, so that the same tokens are compared."""
    return NEUTRAL if blank_after(prompt) else f"{NEUTRAL}\n"


@dataclass(frozen=True, eq=False)
class Pair:
    """The log-probability of `choice`, int32[m], m >= 1, after `prompt`, int32[n], is scored; `size`: the choice in bytes."""

    prompt: np.ndarray
    choice: np.ndarray
    size: int


def read_questions(path: str | Path) -> list[Question]:
    """The items of a JSON-lines file: {"question" or "prompt": str, "choices": [str, ...], "answer": int} a line.

    Raises DataError naming file and line where one is missing or is no such object, and for a file without any.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the questions cannot be read", where=str(path), why=str(error), do="name a file") from error
    found = [_question(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError("there are no questions", where=str(path), why="the file is empty", do="one object a line")
    return found


def prompts(
    questions: Sequence[Question], demonstrations: int, seed: int, draw: int, pool: Sequence[Question] = ()
) -> list[str]:
    """Each question's prompt behind `demonstrations` solved ones, drawn by (seed, draw) from `pool`, or from the others.

    Raises ConfigError where there are fewer to draw from.
    """
    source = list(pool) or list(questions)
    least = demonstrations + (0 if pool else 1)
    if demonstrations and len(source) < least:
        raise ConfigError(
            "there are too few questions to demonstrate with",
            where="--demonstrations",
            why=f"{demonstrations} demonstrations of {len(source)} questions"
            + ("" if pool else ", one is asked itself"),
            do=f"--demonstrations={max(len(source) - least + demonstrations, 0)}",
        )
    order = np.random.default_rng((seed, draw)).permutation(len(source)).tolist()
    found = []
    for number, question in enumerate(questions):
        shown = [source[index] for index in order if pool or index != number][:demonstrations]
        found.append(BETWEEN.join([*(each.solved() for each in shown), question.prompt]))
    return found


def pair(tokenizer, prompt: str, choice: str) -> Pair:
    """Prompt and choice, tokenised TOGETHER, with a blank between, as the model has read such text; then cut apart.

    The choice begins with the first token that reaches beyond the prompt. For a tokenizer that changes text the prompt ends
    where its own tokens and the joint ones part.

    Raises:
      ConfigError: the prompt ends in a blank. A byte-level BPE writes the blank with the word that follows: the model never
        saw a word after a blank of its own, and would find every choice unlikely.
    """
    lossless = getattr(tokenizer, "lossless", True)
    if lossless and prompt[-1:].isspace() and not prompt.endswith("\n"):
        raise ConfigError(
            "a prompt ends in a blank",
            where=f"...{prompt[-40:]!r}",
            why="in a byte-level tokenizer the blank belongs to the word that follows it",
            do="end the prompt without it; the blank before a choice is added",
        )
    alone, joint = tokenizer.encode_batch([prompt, joined(prompt, choice)])
    if lossless:
        ends = np.cumsum(tokenizer.bytes_per_token[joint])
        border = int(np.searchsorted(ends, len(prompt.encode()), side="right"))
    else:
        shortest = min(len(alone), len(joint))
        differ = np.flatnonzero(alone[:shortest] != joint[:shortest])
        border = int(differ[0]) if len(differ) else shortest
    border = min(border, len(joint) - 1)
    return Pair(joint[:border], joint[border:], max(len(choice.encode()), 1))


def scores(log_probability: np.ndarray, neutral: np.ndarray, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """{normalisation: float64[n]} of log p(choice | prompt) and log p(choice | neutral prompt), float64[n] each."""
    tokens, sizes = (np.array(values) for values in zip(*((len(p.choice), p.size) for p in pairs), strict=True))
    return {
        "none": log_probability,
        "token": log_probability / tokens,
        "byte": log_probability / sizes,
        "pmi": log_probability - neutral,
    }


@dataclass
class Choices:
    """Accuracy of a model on questions, for each normalisation.

    Attributes:
      log_probabilities: pairs -> float64[n], log p(choice | prompt) in nats; what knows the model.
      tokenizer: encode_batch(texts) -> arrays of ids; bytes_per_token.
      demonstrations: solved questions in front of each; draws: how often they are drawn anew, at least 3.
      pool: where demonstrations come from; empty: from the other questions.
    """

    log_probabilities: Callable[[Sequence[Pair]], np.ndarray]
    tokenizer: object
    questions: Sequence[Question]
    demonstrations: int = 0
    pool: Sequence[Question] = ()
    draws: int = 3
    seed: int = 0

    def __call__(self) -> dict[str, float]:
        """{"<normalisation>": mean accuracy over draws, "<normalisation>_std": its standard deviation, "chance": ...}.

        Without demonstrations there is nothing to draw, and no deviation is given.
        """
        if self.demonstrations and self.draws < 3:
            raise ConfigError(
                "demonstrations are drawn at least 3 times",
                where="draws",
                why=f"got {self.draws}: of fewer a deviation says nothing",
                do="3 or more",
            )
        neutral = self.log_probabilities(self._pairs([neutral_for(each.prompt) for each in self.questions]))
        drawn = [self._accuracies(draw, neutral) for draw in range(self.draws if self.demonstrations else 1)]
        found = {"chance": float(np.mean([1 / len(question.choices) for question in self.questions]))}
        for name in NORMALISATIONS:
            values = [accuracies[name] for accuracies in drawn]
            found[name] = float(np.mean(values))
            if self.demonstrations:
                found[f"{name}_std"] = float(np.std(values, ddof=1))
        return found

    def _accuracies(self, draw: int, neutral: np.ndarray) -> dict[str, float]:
        texts = prompts(self.questions, self.demonstrations, self.seed, draw, self.pool)
        pairs = self._pairs(texts)
        scored = scores(self.log_probabilities(pairs), neutral, pairs)
        borders = np.cumsum([len(question.choices) for question in self.questions])[:-1]
        taken = {name: [part.argmax() for part in np.split(values, borders)] for name, values in scored.items()}
        answers = np.array([question.answer for question in self.questions])
        return {name: float(np.mean(np.array(chosen) == answers)) for name, chosen in taken.items()}

    def _pairs(self, texts: Sequence[str]) -> list[Pair]:
        return [
            pair(self.tokenizer, text, choice)
            for text, question in zip(texts, self.questions, strict=True)
            for choice in question.choices
        ]


def _question(line: str, where: str) -> Question:
    form = 'one object a line: {"prompt": "...", "choices": ["...", "..."], "answer": 0}'
    try:
        values = json.loads(line)
        prompt = values["prompt"] if "prompt" in values else values["question"]
        choices, answer = values["choices"], values["answer"]
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise DataError("a line is no question", where=where, why=why, do=form) from error
    texts = isinstance(choices, list) and all(isinstance(text, str) and text for text in [prompt, *choices])
    if not texts or type(answer) is not int or not 0 <= answer < len(choices) or len(choices) < 2:
        why = "prompt and choices are texts, at least 2 choices, and answer is the number of one, from 0"
        raise DataError("a line is no question", where=where, why=why, do=form)
    return Question(prompt, tuple(choices), answer)
