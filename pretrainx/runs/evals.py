"""Evaluations of a finished run, or of one that still trains, by name: a table, and a line of DIR/evals.jsonl."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pretrainx.adapt.wrapper import innermost
from pretrainx.core import config as strict
from pretrainx.core import json_lines
from pretrainx.core.errors import ConfigError, nearest
from pretrainx.core.labelled import Labelled
from pretrainx.core.pairs import Pairs
from pretrainx.evals import ngram
from pretrainx.evals.baseline import Baseline
from pretrainx.evals.choices import Choices, read_questions
from pretrainx.evals.fill_in import FillIns, hides_inside, single_tasks
from pretrainx.evals.likelihood import likelihood
from pretrainx.evals.pseudo_perplexity import PseudoPerplexity
from pretrainx.evals.sampled import Sampled
from pretrainx.objectives.masked_lm import MaskedLm
from pretrainx.objectives.span_corruption import SpanCorruption
from pretrainx.parallel.compilation import keep_compiled_programs
from pretrainx.runs import perils, transfer
from pretrainx.runs.data import Prepared, prepare
from pretrainx.runs.evaluation import Evaluation
from pretrainx.runs.evaluation_of_text import is_causal
from pretrainx.runs.evaluations import evaluation_of
from pretrainx.runs.load import Run, data_directory, load, rebuild
from pretrainx.runs.recipe import EvalConfig

FILE = "evals.jsonl"
SAMPLES = 16  # held-out texts that a decoder goes on with


def evaluate(
    workdir: str | Path,
    step: int | None = None,
    names: Iterable[str] = (),
    choices: str = "",
    demonstrations: int = 0,
    demonstrations_from: str = "",
    task: Mapping[str, Any] | None = None,
    evals: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Evaluates a checkpoint (default: the newest that is whole) and prints a table; 0.

    `names`: of EVALUATIONS; without any, all that apply but ONLY_NAMED. `choices`: a file of questions; `demonstrations`: how
    many solved ones stand before each, of the others or of a file of their own. `task`: the configuration of a run that starts
    from this one, for "transfer". `evals`: what is laid over the run's
    config.evals, nested.
    One object is added to DIR/evals.jsonl, with the keys "time", "step" and "eval/<name>/<metric>", and "evals", what was laid
    over the configuration, where something was.

    Raises ConfigError for an unknown name, and for one that does not apply to the run's objective, with the reason.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in EVALUATIONS:
            why = nearest(name, EVALUATIONS)
            raise ConfigError(f"unknown evaluation {name!r}", where="--evals", why=why, do="leave it out for all")
    if demonstrations and not choices:
        raise ConfigError(
            "there is nothing to demonstrate", where="--demonstrations", why="no questions", do="--choices=FILE.jsonl"
        )
    if demonstrations_from and not demonstrations:
        raise ConfigError(
            "no demonstration is asked for",
            where="--demonstrations_from",
            why="their number is 0",
            do="--demonstrations=K",
        )
    keep_compiled_programs()
    run = load(workdir, step)
    if evals:
        wanted = strict.parse(EvalConfig, laid_over(strict.as_dict(run.config.evals), evals), "config.evals")
        run = dataclasses.replace(run, config=dataclasses.replace(run.config, evals=wanted))
    found = Evaluations(run, choices, demonstrations, demonstrations_from, task or {}, say)
    for line in found.run.damaged:
        say(f"warning: {line}")
    reasons = {name: reason(found) for name, (reason, _) in EVALUATIONS.items()}
    for name in names:
        if reasons[name]:
            raise ConfigError(
                f"the evaluation {name!r} does not apply to this run",
                where="--evals",
                why=reasons[name],
                do="these do: " + ", ".join(other for other, reason in reasons.items() if not reason),
            )
    names = names or [name for name, reason in reasons.items() if not reason and name not in ONLY_NAMED]
    if not names:
        raise ConfigError(
            "no evaluation applies to this run", where=str(workdir), why=reasons["held_out"], do="--choices=FILE.jsonl"
        )
    values: dict[str, float] = {}
    say(f"{workdir}, step {found.run.step}")
    try:
        for name in names:
            began = time.time()
            new = EVALUATIONS[name][1](found)
            new = {metric.removeprefix(f"{name}/"): value for metric, value in new.items()}
            width = max(map(len, new), default=0)
            say(f"{name} ({time.time() - began:.1f} s)")
            for metric, value in new.items():
                say(f"  {metric:<{width}}  {value:.6g}")
            values |= {f"eval/{name}/{metric}": value for metric, value in new.items()}
    finally:  # what was measured before one that fails is kept
        record = {"time": round(time.time(), 3), "step": found.run.step} | ({"evals": evals} if evals else {}) | values
        if values:
            write(Path(workdir) / FILE, record, say)
    return 0


def write(path: Path, record: dict[str, Any], say: Callable[[str], None]) -> None:
    """Adds a line to the file; a full disk is told, and hides no table that was printed."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json_lines.encode(record) + "\n")
    except OSError as error:
        say(f"warning: {path} was not written: {error}")


def laid_over(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, those of `changes` in place of theirs."""
    changed = {
        name: laid_over(values[name], new)
        if isinstance(new, Mapping) and isinstance(values.get(name), Mapping)
        else new
        for name, new in changes.items()
    }
    return {**values, **changed}


class Evaluations:
    """The evaluations of one checkpoint. What several of them need is made once, and what none needs never."""

    def __init__(
        self,
        run: Run,
        choices: str,
        demonstrations: int,
        pool: str,
        task_values: Mapping[str, Any],
        say: Callable[[str], None],
    ):
        self.run, self.say, self.task_values = run, say, task_values
        self.choices_file, self.demonstrations, self.pool_file = choices, demonstrations, pool

    @functools.cached_property
    def data(self) -> Prepared:
        return prepare(self.run.config.data, data_directory(self.run.config, self.run.workdir), self.say)

    @functools.cached_property
    def evaluation(self) -> Evaluation:
        """The run's own, which knows its held-out rows."""
        recipe, parts = rebuild(self.run.config, self.run.about)
        return evaluation_of(recipe, parts, self.data, self.run.workdir)

    @functools.cached_property
    def batches(self) -> list:
        return list(self.evaluation.held_out["held_out"].batches)

    @functools.cached_property
    def model(self) -> ngram.Trigram:
        return self.evaluation.trigram_model

    @property
    def tasks(self) -> list:
        """The objective without wrappers, or those of a mixture's tasks."""
        return [innermost(task) for _, task, _ in single_tasks(self.run.objective, self.run.extras)]

    # Why an evaluation does not apply; "" where it does.

    def no_text(self) -> str:
        directory = data_directory(self.run.config, self.run.workdir)
        return "" if directory.is_dir() else f"it has no prepared data ({directory}): nothing is held out"

    def no_trigram(self) -> str:
        fills = any(isinstance(task, (MaskedLm, SpanCorruption)) for task in self.tasks)
        if not fills and not is_causal(self.run.objective):
            return "a trigram model neither goes on with text as this objective does, nor fills in"
        return self.no_text()

    def no_masks(self) -> str:
        if isinstance(innermost(self.run.objective), MaskedLm):
            return self.no_text()
        return "only masked language models (objective 'masked_lm') hide one token at a time"

    def no_gaps(self) -> str:
        if any(map(hides_inside, self.tasks)):
            return self.no_text()
        return (
            "the objective hides nothing inside a text: samples are continuations (config.evals.samples, or generate)"
        )

    def no_writer(self) -> str:
        if is_causal(self.run.objective):
            return self.no_text()
        return "only a decoder (config.model.name) goes on with text by itself"

    def no_features(self) -> str:
        if "features" in self.run.objective.output_names:
            return self.no_text()
        return "the run is of text, or its objective learns no vector for each picture"

    def no_pairs(self) -> str:
        if isinstance(self.run.about, Pairs):
            return self.no_text()
        return "only pictures with captions (config.data.name 'pairs') are compared with texts"

    def no_task(self) -> str:
        if isinstance(self.run.about, Labelled):
            return self.no_text()
        return "only labelled text (config.data.name 'labelled') has labels to be right about"

    def no_choices(self) -> str:
        return "" if self.choices_file else "no questions are given: --choices=FILE.jsonl"

    # The evaluations: {metric: value}.

    def held_out(self) -> dict[str, float]:
        found = {}
        for split, evaluator in self.evaluation.held_out.items():
            values = evaluator(self.run.params, self.run.extras, self.run.step)
            found |= {f"{split}/{name}": value for name, value in values.items()}
        return found

    def trigram(self) -> dict[str, float]:
        """Its loss on the same text, for objectives that predict all of it; its hits and the model's where they fill in."""
        if is_causal(self.run.objective):
            return self.evaluation.trigram
        run = self.run
        shared = run.objective, run.rules, run.config.seed, self.batches, self.model, run.tokenizer.vocabulary
        return Baseline(*shared)(run.params, run.extras)

    def pseudo_perplexity(self) -> dict[str, float]:
        run = self.run
        shared = run.objective, run.rules, run.config.seed, self.batches, run.tokenizer.vocabulary
        return PseudoPerplexity(*shared, run.tokenizer.bytes_per_token)(run.params, run.extras)

    def fill_in(self) -> dict[str, float]:
        """Writes DIR/samples/<step>-fill_in.txt, shows it, and counts spans that are written as they were."""
        run = self.run
        shared = run.objective, run.rules, run.config.seed, self.batches[0], run.tokenizer.decode
        text = FillIns(*shared, run.tokenizer.vocabulary)(run.params, run.extras)
        path = run.workdir / "samples" / f"{run.step:08d}-fill_in.txt"
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            self.say(f"warning: {path} was not written: {error}")
        self.say(text)
        rows = self.run.config.evals.batch_size or self.run.config.train.batch_size
        return FillIns(*shared, run.tokenizer.vocabulary, rows).exact_spans(run.params, run.extras)

    def sampled(self) -> dict[str, float]:
        run, length = self.run, self.evaluation.length
        sequences = [tokens for text in self.evaluation.held_out_rows.values() for tokens in text.sequences()]
        cut = (tokens[first : first + length] for tokens in sequences for first in range(0, len(tokens), length))
        # Whole ones where there are some; a short corpus has less.
        texts = sorted((text for text in cut if len(text) > 1), key=len, reverse=True)
        shared = texts[:SAMPLES], self.model, run.tokenizer.vocabulary.special("eos"), run.config.seed
        return Sampled(run.objective, run.rules, *shared)(run.params, run.extras)

    def representations(self) -> dict[str, float]:
        """Neighbours, probe and collapse of the features, and the same of raw pixels."""
        measured = self.evaluation.representations
        return measured(self.run.params, self.run.extras) | measured.pixels()

    def image_text(self) -> dict[str, float]:
        """Retrieval, zero-shot classification, captions."""
        return self.evaluation.image_text(self.run.params, self.run.extras)

    def task(self) -> dict[str, float]:
        """Loss and metrics with their intervals, on the test split where there is one."""
        return self.evaluation.finished(self.run.params, self.run.extras, self.run.step)

    def choices(self) -> dict[str, float]:
        run = self.run
        longest = run.config.model.max_length or run.config.data.length
        scores = likelihood(run.objective, run.rules, run.params, run.extras, longest)
        questions = read_questions(self.choices_file)
        pool = read_questions(self.pool_file) if self.pool_file else ()
        return Choices(scores, run.tokenizer, questions, self.demonstrations, pool, seed=run.config.seed)()


# {name: (why it does not apply, "" where it does; what it gives)}
EVALUATIONS: dict[str, tuple[Callable[[Evaluations], str], Callable[[Evaluations], dict[str, float]]]] = {
    "held_out": (Evaluations.no_text, Evaluations.held_out),
    "trigram": (Evaluations.no_trigram, Evaluations.trigram),
    "pseudo_perplexity": (Evaluations.no_masks, Evaluations.pseudo_perplexity),
    "fill_in": (Evaluations.no_gaps, Evaluations.fill_in),
    "sampled": (Evaluations.no_writer, Evaluations.sampled),
    "representations": (Evaluations.no_features, Evaluations.representations),
    "image_text": (Evaluations.no_pairs, Evaluations.image_text),
    "task": (Evaluations.no_task, Evaluations.task),
    "choices": (Evaluations.no_choices, Evaluations.choices),
    "fisher": (Evaluations.no_text, perils.fisher),
    "forgetting": (perils.no_source, perils.forgetting),
    "pruning": (Evaluations.no_text, perils.pruning),
    "membership": (perils.no_rows, perils.membership),
    "transfer": (transfer.no_task, transfer.transfer),
}
# Made only where they are named: they read other runs or much of the training split, write files, or train.
ONLY_NAMED = ("fisher", "forgetting", "pruning", "membership", "transfer")
