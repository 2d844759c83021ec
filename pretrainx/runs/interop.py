"""A model of another library as a run of ours, and a run as a model of another library."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from chex import assert_trees_all_equal_shapes_and_dtypes

from pretrainx.core import config as strict
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.labelled import Labelled
from pretrainx.core.pairs import Pairs
from pretrainx.core.readable import quantity
from pretrainx.core.records import tokens_of
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.interop import directory, gguf
from pretrainx.interop.directory import OF_PAIRS, OF_PICTURES, TOKENIZER, Pretrained, read_json, type_of
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.stack import StackConfig
from pretrainx.objectives import spans
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.runs import interop_of_images, interop_of_pairs
from pretrainx.runs.data import About
from pretrainx.runs.load import Run, data_directory, load
from pretrainx.runs.model_card import card_of
from pretrainx.runs.parts import assemble
from pretrainx.runs.recipe import OF_LABELLED, Recipe, parse
from pretrainx.runs.scaled import refuse_multipliers
from pretrainx.runs.unwrapped import unwrapped, without_head
from pretrainx.training import guard
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.state import TrainState
from pretrainx.training.writers import Journal

FACTS = "imported.json"
# Rows of an imported model's recipe: what fits a workstation, not what the model could see.
LENGTH, ROWS = 1024, 8
# Of models without a table of positions: what T5 was trained on.
RELATIVE_LENGTH = 512
# What a model is called in the recipe, on its card, and by the hub's list of tasks.
NAMES = {
    DecoderConfig: ("decoder", "causal language model", "text-generation"),
    EncoderConfig: ("encoder", "masked language model", "fill-mask"),
    EncoderDecoderConfig: ("encoder_decoder", "sequence-to-sequence language model", "text2text-generation"),
}


def import_model(source: str | Path, workdir: str | Path, say: Callable[[str], None] = print) -> None:
    """Makes `workdir` a run at step 0 with the parameters of a directory of Hugging Face's or open_clip's, or of a GGUF file.

    DIR/config.json is a recipe to go on from, DIR/tokenizer.json the tokenizer of text as it was, DIR/imported.json what an
    export needs beside. Raises DataError where the source cannot be followed to the letter, ConfigError for a workdir in use.
    """
    source, workdir = Path(source), Path(workdir)
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise ConfigError(
            "the workdir is not empty",
            where=f"--workdir={workdir}",
            why="an import is a new run, and nothing is overwritten",
            do="choose another --workdir, or remove what an unfinished import left there",
        )
    kind = type_of(source)
    if kind in OF_PICTURES:
        workdir.mkdir(parents=True, exist_ok=True)
        with _or_nothing(workdir):
            recipe, model, images, lines = interop_of_images.read(source)
            _save(recipe, images, model, {"images": images.as_json()}, workdir, [*lines, *_left_out(model)], say)
        return
    of_gguf = source.suffix == ".gguf"
    reader = gguf.opened(source) if of_gguf else None
    text = gguf.tokenizer_json(source, reader) if of_gguf else _tokenizer_json(source)
    workdir.mkdir(parents=True, exist_ok=True)
    kept = workdir / TOKENIZER
    with _or_nothing(workdir):
        kept.write_text(text, encoding="utf-8")
        if kind in OF_PAIRS:
            recipe, model, tokenizer, about, lines = interop_of_pairs.read(source, kept.absolute(), kind)
            _fits(tokenizer.vocabulary, model, source)
            data = {"images": about.images.as_json(), "tokenizer": tokenizer.digest}
            _save(recipe, about, model, data, workdir, [*lines, *_left_out(model)], say)
            return
        tokenizer = Tokenizer.load(kept)
        size = tokenizer.vocabulary.size
        model = gguf.read(source, size, reader) if of_gguf else directory.read(source, size)
        _fits(tokenizer.vocabulary, model, source)
        recipe = parse(_recipe(model, kept.absolute(), tokenizer.vocabulary))
        lines = _notes(recipe, model, tokenizer.vocabulary)
        _save(recipe, tokenizer.vocabulary, model, {"tokenizer": tokenizer.digest}, workdir, lines, say)


@contextlib.contextmanager
def _or_nothing(workdir: Path) -> Iterator[None]:
    """A workdir that was empty or not there, made whole or not at all."""
    try:
        yield
    except BaseException:
        shutil.rmtree(workdir, ignore_errors=True)
        raise


def export_model(
    workdir: str | Path, target: str | Path, step: int | None = None, say: Callable[[str], None] = print
) -> None:
    """Writes the run's parameters (the averaged ones where it keeps an EMA) as a directory that `transformers` loads.

    Low-rank updates are merged into the weights; of tasks on text the model is written, without the task's head.
    """
    workdir, target = Path(workdir), Path(target)
    run = unwrapped(load(workdir, step))
    if isinstance(run.about, Labelled):
        run = without_head(run)
        say(f"the head of the task is left out: {', '.join(run.objective.heads)}")
    config = run.config.model
    refuse_multipliers(config)
    facts = read_json(workdir / FACTS) if (workdir / FACTS).is_file() else {}
    if run.tokenizer is None or isinstance(run.about, Pairs):
        if run.tokenizer is None:
            model, count = interop_of_images.write(run, target, facts)
        else:
            model, count = interop_of_pairs.write(run, target, facts, _tokenizer_file(run))
        _say_written(model, count, run, target, say)
        return
    causal = (AutoregressiveConfig, *OF_LABELLED.values())
    if isinstance(config, DecoderConfig) and not isinstance(run.config.objective, causal):
        raise ConfigError(
            "a decoder that reads its prefix both ways has no form there",
            where="config.objective.name",
            why=f"the objective is {type(run.objective).__name__}, and what loads the model would be causal",
            do="export a run of the objective 'autoregressive', or of an encoder or encoder-decoder",
        )
    vocabulary = run.tokenizer.vocabulary
    vocab_size = facts.get("vocab_size", vocabulary.predicted)
    special = {name: token for name, token in vocabulary.specials if token < vocabulary.predicted}
    if isinstance(config, EncoderDecoderConfig):
        special["decoder_start"] = getattr(run.objective, "begin", vocabulary.special("pad"))
    directory.write(
        target,
        config,
        jax.tree.map(np.asarray, jax.device_get(run.params)),
        ids=vocabulary.size,
        vocab_size=vocab_size,
        max_length=config.max_length or run.config.data.length,
        tokenizer=_tokenizer_file(run),
        special=special,
        facts=facts,
        card=_card(run, facts, vocab_size),
    )
    count = states.layout(run.objective, run.config.train.batch_size).parameters(vocab_size)
    _say_written(config, count, run, target, say)


def _say_written(model: Any, count: int, run: Run, target: Path, say: Callable[[str], None]) -> None:
    architecture = directory.fitting(model).architecture(model)
    say(f"{target}: {architecture}, {quantity(count)} parameters, step {run.step} of {run.workdir}")


def _tokenizer_json(source: Path) -> str:
    try:
        return (source / TOKENIZER).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "the model has no tokenizer.json",
            where=str(source / TOKENIZER),
            why=str(error),
            do="save it with the fast tokenizer of the library that the model is from: tokenizer.save_pretrained(DIR)",
        ) from error


def _fits(vocabulary: Vocabulary, model: Pretrained, source: Path) -> None:
    if vocabulary.predicted > model.vocab_size:
        raise DataError(
            "the tokenizer has ids that the model does not know",
            where=str(source),
            why=f"{vocabulary.predicted} ids, the model's table has {model.vocab_size} rows",
            do="give the tokenizer and the weights of one and the same model",
        )


def _recipe(model: Pretrained, tokenizer: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """A recipe to train the model further: small rows and batches, the standard library's text until data are named."""
    # Narrower ones do not train: float16 lacks range, and in bfloat16 a step of 1e-4 is lost on weights above 1/32.
    params = "float64" if model.facts["dtype"] == "float64" else "float32"
    length, objective = min(model.config.max_length or RELATIVE_LENGTH, LENGTH), _objective(model.config)
    while objective["name"] == "span_corruption" and 0 < len(vocabulary.sentinels) < _spans(length):
        length //= 2
    return {
        "objective": objective,
        "model": {"name": NAMES[type(model.config)][0], **strict.as_dict(model.config)},
        "data": {"name": "text", "source": "stdlib", "tokenizer": str(tokenizer), "length": length},
        "schedule": {"name": "cosine", "peak": 1e-4},
        "precision": {"params": params, "compute": params},
        "train": {"steps": 1000, "batch_size": ROWS},
    }


def _objective(config: StackConfig) -> dict[str, Any]:
    """What a model of this form was trained to do."""
    if isinstance(config, EncoderConfig):
        pair = config.pooler and config.head != "none" and config.types >= 2
        return {"name": "masked_lm", "next_sentence": pair}
    if isinstance(config, EncoderDecoderConfig):
        return {"name": "span_corruption" if config.positions == "relative" else "denoising"}
    return {"name": "autoregressive"}


def _spans(length: int) -> int:
    """How many sentinels sources of `length` tokens need."""
    habits = SpanCorruptionConfig()
    raw = spans.raw_length(length, habits.density, habits.mean_span)
    return spans.lengths_of(raw, habits.density, habits.mean_span).spans if raw else 0


def _save(
    recipe: Recipe,
    about: About,
    model: Pretrained,
    data: dict[str, Any],
    workdir: Path,
    lines: list[str],
    say: Callable[[str], None],
) -> None:
    """Writes the run at step 0 and says `lines`; data: what its checkpoint keeps of tokenizer or pictures."""
    parts = assemble(recipe, about, jax.devices()[:1])
    # As arrays of this device; a run that goes on from here makes its optimizer's state itself.
    placed = paths.map_leaves(lambda _, leaf: jnp.asarray(leaf, recipe.precision.params), model.params)
    assert_trees_all_equal_shapes_and_dtypes(placed, parts.found.params)
    zero, fresh = jnp.zeros((), jnp.int32), guard.start(parts.options.guard)
    state = TrainState(step=zero, params=placed, frozen={}, opt_state={}, extras={}, ema={}, guard=fresh)
    with Journal(workdir) as journal:
        tell = lambda kind, **facts: journal.event(kind, **facts)
        checkpoints = Checkpoints(workdir / "checkpoints", recipe.checkpoint.keep, tell)
        data = {"imported": model.facts["source"], **data}
        checkpoints.save(state, {"config": strict.as_dict(recipe), "data": data, "wall": 0.0})
        checkpoints.demand(0)
        checkpoints.close()
    for name, content in {FACTS: model.facts, "config.json": strict.as_dict(recipe)}.items():
        (workdir / name).write_text(json.dumps(content, indent=2) + "\n")
    count = parts.found.parameters(model.vocab_size)
    say(f"{workdir}: {model.facts['model_type']} from {model.facts['source']}, {quantity(count)} parameters, step 0")
    for line in lines:
        say(line)


def _left_out(model: Pretrained) -> list[str]:
    left_out = ", ".join(model.facts["left_out"])
    return [f"left out, since nothing in this model reads it: {left_out}"] if left_out else []


def _notes(recipe: Recipe, model: Pretrained, vocabulary: Vocabulary) -> list[str]:
    """What is to be known of an imported model of text."""
    lines = _left_out(model)
    if isinstance(recipe.model, EncoderConfig) and recipe.model.head == "none":
        lines.append("the model has no head: it gives features; to train it on, add one (config.model.head)")
    if vocabulary.predicted < model.vocab_size:
        lines.append(
            f"the table has {model.vocab_size} rows, the tokenizer {vocabulary.predicted} ids: the others are kept, "
            "and are in no softmax here"
        )
    if vocabulary.added:
        pad = vocabulary.special("pad")
        lines.append(f"the tokenizer has no padding: rows are filled up with id {pad}, never predicted")
    return lines


def _tokenizer_file(run: Run) -> Path:
    prepared = data_directory(run.config, run.workdir) / TOKENIZER
    return prepared if prepared.is_file() else run.workdir / TOKENIZER


def _card(run: Run, facts: dict[str, Any], vocab_size: int) -> str:
    """README.md of an export. It claims what the run's files say, and leaves the licence to its owner."""
    recipe, config = run.config, run.config.model
    rows, of_task = run.step * recipe.train.batch_size, isinstance(run.about, Labelled)
    seen = f"{rows:,} examples" if of_task else f"{round(rows * tokens_of(run.objective.reads)):,} tokens"
    _, kind, task = NAMES[type(config)]
    if isinstance(config, EncoderConfig) and config.head == "none":
        kind, task = "text encoder without a head", "feature-extraction"
    layers = f"{config.depth} layers"
    if isinstance(config, EncoderDecoderConfig):
        layers = f"{config.depth} layers in the encoder and {config.target_depth} in the decoder"
    start = facts.get("source", "") or (Path(recipe.init_from).name if recipe.init_from else "")
    described = [
        f"A {kind}: {layers}, width {config.width}, {config.heads} heads, vocabulary {vocab_size}, "
        f"rows of up to {config.max_length or recipe.data.length} tokens.",
        "",
    ]
    return card_of(run, task, described, seen, start, ", ".join(_sources(recipe)))


def _sources(recipe: Recipe) -> list[str]:
    parts = getattr(recipe.data, "parts", (recipe.data,))
    return [f"{part.source} {' '.join(part.paths)}".strip() for part in parts]
