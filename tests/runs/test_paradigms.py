"""A tiny run of each text paradigm: trained, gone on with, read back, replayed; what it samples and what it generates."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import pretrainx
from evals.families import TOKENIZER, batch, made
from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.json_lines import read_metrics
from pretrainx.data.text import prepare
from pretrainx.data.tokenizer import Tokenizer
from pretrainx.evals.fill_in import writing_on_first
from pretrainx.runs.dry_run import batch_lines, dry_run
from pretrainx.runs.examples import lines, observed
from pretrainx.runs.generate import generate, source_of
from pretrainx.runs.load import following
from pretrainx.runs.parts import assemble
from pretrainx.runs.recipe import parse
from pretrainx.runs.replay import replay
from pretrainx.runs.train import train

STEPS = 4
SIZES = {"width": 16, "depth": 1, "heads": 2, "unroll": 0}
T5 = {"name": "encoder_decoder", **SIZES, "positions": "relative", "norm_first": True}
SPECIALS = ("mask", "bos", "cls", "sep", "regular", "extreme", "sequential")
PARADIGMS = {
    "masked_lm": ({"whole_word": True}, {"name": "encoder", **SIZES}),
    "span_corruption": ({}, T5),
    "denoising": ({}, {"name": "encoder_decoder", **SIZES}),
    "prefix_lm": ({}, {"name": "decoder", **SIZES}),
    "mixture_of_denoisers": (
        {
            "denoisers": [
                {"name": "regular", "share": 0.5, "mode": "regular"},
                {"name": "sequential", "share": 0.5, "kind": "prefix", "mode": "sequential"},
            ]
        },
        T5,
    ),
}
rows_of_batch = lambda name: 16 if name == "mixture_of_denoisers" else 8
# The others differ from these by what `observe` does, which tests of objectives and the contract look at.
FAST = ("masked_lm",)
marks = lambda name: [pytest.mark.xdist_group(name), *([] if name in FAST else [pytest.mark.slow])]
each_paradigm = pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in PARADIGMS])


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def make(text, tmp_path_factory):
    """The config of a paradigm's run; all share one preparation."""
    data = {"source": "text", "paths": [str(text)], "tokenizer": "bytes", "length": 32, "held_out": 0.3}
    data |= {"specials": SPECIALS, "sentinels": 8, "cache": str(tmp_path_factory.mktemp("shared") / "data")}

    def values(name, **changes):
        objective, model = PARADIGMS[name]
        made = {
            "objective": {"name": name, **objective},
            "model": model,
            "data": data,
            "schedule": {"warmup": 1},
            # A task's rows must divide over eight devices.
            "train": {"steps": STEPS, "batch_size": rows_of_batch(name), "log_every": 1},
            "checkpoint": {"every": 2, "keep": 3},
            "evals": {"tokens": 256, "trigram": True, "samples": {"rows": 1, "prompts": ["alpha "]}},
        }
        return {**made, **{section: {**made[section], **part} for section, part in changes.items()}}

    return values


@pytest.fixture(scope="session")
def runs(make, tmp_path_factory):
    """{paradigm: workdir}, each trained when it is first asked for."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("paradigms") / name
            assert train(make(name), made[name], say=lambda line: None) == 0
        return made[name]

    return of


def rows_of(run, name, count):
    """Held-out rows as the objective reads them: the fields that a person gives."""
    text = prepare(run.config.data, run.config.data.cache, lambda line: None)
    tokens = np.asarray(text.tokens("held_out", ""), np.int32)
    cut = lambda reads, rows: {"tokens": tokens[: rows * reads.width].reshape(rows, reads.width)}
    reads = run.objective.reads
    if isinstance(reads, tuple):
        return {task: cut(each, round(count * share)) for task, share, each in reads}
    return cut(reads, count)


@each_paradigm
def test_a_run_is_trained_replayed_and_read_back(name, make, runs):
    workdir = runs(name)
    records = read_metrics(workdir / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4] and all(
        np.isfinite(record["train/loss"]) for record in records
    )
    last = records[-1]
    prefix = "regular/" if name == "mixture_of_denoisers" else ""
    assert 0 <= last[f"eval/held_out/metric/{prefix}accuracy"] <= 1 and last["eval/held_out/loss"] > 0
    # Bits of the text need the loss of each of its tokens, and only a causal decoder is comparable with a trigram.
    assert "eval/held_out/bits_per_byte" not in last and ("eval/trigram/loss" in last) == (name == "prefix_lm")
    if name == "mixture_of_denoisers":
        terms = [last[f"train/term/{task}/nll"] for task in ("regular", "sequential")]
        assert last["train/loss"] == pytest.approx(sum(terms), rel=1e-5)

    said = []
    assert replay(workdir, 3, rows=1, say=said.append) == 0
    assert any("reproduces, bit for bit" in line for line in said), said
    assert any("run twice: the same to the bit" in line for line in said), said
    assert sum(bool(re.match(r"  row +\d+ \| corpus row +\d+ \| nll [\d.]+$", line)) for line in said) == rows_of_batch(
        name
    )
    headings = [line for line in said if line.startswith("loss per row")]
    assert len(headings) == (2 if prefix else 1) and ("of the task sequential" in str(headings)) == bool(prefix)

    run = pretrainx.load(workdir)
    batch = rows_of(run, name, 8)
    found = run.loss(batch)
    parts = [term.at(STEPS) * found[term.name] for term in run.objective.terms]
    assert np.isfinite(found["loss"]) and found["loss"] == pytest.approx(sum(parts), rel=1e-6)
    assert run.loss(batch, seed=1)["loss"] != found["loss"]  # other masks, spans, splits


@pytest.mark.xdist_group("masked_lm")
def test_rows_of_fewer_tokens_are_filled_up(runs):
    run = pretrainx.load(runs("masked_lm"))
    width, pad = run.objective.reads.width, run.tokenizer.vocabulary.special("pad")
    tokens = rows_of(run, "masked_lm", 8)["tokens"][:, : width - 7]
    whole = np.pad(tokens, ((0, 0), (0, 7)), constant_values=pad)
    assert run.loss({"tokens": tokens}) == run.loss({"tokens": whole})
    with pytest.raises(ConfigError, match="do not fit") as caught:
        run.loss({"tokens": np.concatenate([whole, whole], axis=1)})
    assert f"[8, {2 * width}]" in caught.value.why


@pytest.mark.slow
@pytest.mark.xdist_group("mixture_of_denoisers")
def test_a_mixture_scores_a_batch_for_each_task(runs):
    run = pretrainx.load(runs("mixture_of_denoisers"))
    with pytest.raises(ConfigError, match="batch for each of its tasks") as caught:
        run.loss({"tokens": np.ones((8, 9), np.int32)})
    assert "regular, sequential" in caught.value.why


@each_paradigm
def test_samples(name, runs):
    text = (runs(name) / "samples" / "00000004.txt").read_text()
    shown = {
        "masked_lm": "[[",
        "span_corruption": "<S0>",
        "denoising": "<mask>",
        "prefix_lm": "=== 'alpha ', greedy ===",
        "mixture_of_denoisers": "=== task sequential, row 0",
    }
    assert shown[name] in text


@pytest.mark.slow
@pytest.mark.xdist_group("mixture_of_denoisers")
def test_a_mixture_is_resumed(make, runs):
    """From its checkpoint; data that are other than then are refused, with the key to set."""
    workdir, values = runs("mixture_of_denoisers"), make("mixture_of_denoisers")
    said = []
    assert train(values, workdir, say=said.append) == 0
    assert any("resumed from step 4" in line for line in said)
    with pytest.raises(DataError, match="data changed since the checkpoint") as caught:
        train({**values, "seed": 3}, workdir, say=said.append)
    assert caught.value.do.endswith("--allow_change=seed")
    with pytest.raises(DataError) as caught:
        train(make("mixture_of_denoisers", train={"batch_size": 32}), workdir, say=said.append)
    assert caught.value.do.endswith("--allow_change=train.batch_size")


@pytest.mark.slow
@each_paradigm
def test_a_run_goes_on_as_if_unbroken(name, make, runs, tmp_path):
    """Stopped after two steps and started again, the losses are those of the run that went through."""
    assert train(make(name, train={"steps": 2}, schedule={"name": "constant"}), tmp_path, say=lambda line: None) == 0
    assert train(make(name, schedule={"name": "constant"}), tmp_path, say=lambda line: None) == 0
    whole = tmp_path / "whole"
    assert train(make(name, schedule={"name": "constant"}), whole, say=lambda line: None) == 0
    losses = lambda workdir: [record["train/loss"] for record in read_metrics(workdir / "metrics.jsonl")]
    assert losses(tmp_path) == losses(whole)


@pytest.mark.slow
@pytest.mark.xdist_group("mixture_of_denoisers")
def test_the_first_batch_is_shown_by_task(make, runs):
    run = pretrainx.load(runs("mixture_of_denoisers"))
    text = prepare(run.config.data, run.config.data.cache, lambda line: None)
    said = "\n".join(batch_lines(run.config, SimpleNamespace(objective=run.objective), text, 0))
    for task in ("regular", "sequential"):
        assert re.search(rf"row 0 of the task {task}, corpus row \d+\n(  .*\n)*  inputs source +<{task}>", said)


@pytest.mark.slow
@pytest.mark.xdist_group("mixture_of_denoisers")
def test_a_dry_run_of_a_mixture(make, tmp_path):
    said = []
    assert dry_run(make("mixture_of_denoisers"), tmp_path / "run", say=said.append) == 0
    assert any("the train step compiles" in line for line in said)
    assert "evaluated at the end: held-out loss, 1 rows with what is filled in" in said, (
        "no prompts, and no trigram model"
    )


@pytest.mark.slow
@pytest.mark.xdist_group("mixture_of_denoisers")
def test_an_encoder_decoder_reads_the_prompt_as_its_source(runs):
    workdir = runs("mixture_of_denoisers")
    known, written = generate(workdir, "alpha beta", max_tokens=5, temperature=0)
    assert known == "" and (known, written) == generate(workdir, "alpha beta", max_tokens=5, temperature=0)
    run = pretrainx.load(workdir)
    special, sentinels = run.tokenizer.vocabulary.special, run.tokenizer.vocabulary.sentinels
    tasks = dict((name, task) for name, task, _ in run.objective.tasks)
    of = lambda task, prompt: source_of(tasks[task], run.tokenizer, prompt).tolist()
    a, b = run.tokenizer.encode_batch(["ab"])[0].tolist()
    # What goes on writes; a text without a mark of its own is gone on with there too.
    assert of("sequential", "ab") == [special("sequential"), a, b]
    assert of("regular", "a<S0>b<S1>") == [special("regular"), a, sentinels[0], b, sentinels[1], special("eos")]
    assert of("regular", "ab") == [special("regular"), a, b, sentinels[0], special("eos")]
    asked = [task for task, _ in writing_on_first(run.objective, run.extras)]
    assert asked[0] is tasks["sequential"]


def test_a_row_of_every_kind_is_shown(float64):
    """Sentinels by name, and labels of a whole row as numbers."""
    shown = {}
    for name in ("masked_lm, two sentences", "span_corruption"):
        objective, _ = made(name)
        given = batch(objective)
        shown[name] = "\n".join(lines(TOKENIZER, given, observed(objective, 0, 0, given), 1))
    assert re.search(r"targets next_sentence, next_sentence +[01]\n", shown["masked_lm, two sentences"])
    assert re.search(r"inputs source .*<S0>.*<S1>.*<eos>", shown["span_corruption"])
    assert re.search(r"targets, nll +<S0>", shown["span_corruption"])


@pytest.mark.xdist_group("masked_lm")
def test_a_masked_model_does_not_write(runs):
    with pytest.raises(ConfigError, match="does not write text") as caught:
        generate(runs("masked_lm"), "alpha")
    assert "fill_in" in caught.value.do


@pytest.mark.parametrize(
    "name, model, where",
    [
        ("masked_lm", "decoder", "config.model.name"),
        ("masked_lm", "encoder_decoder", "config.model.name"),
        ("span_corruption", "encoder", "config.model.name"),
        ("denoising", "decoder", "config.model.name"),
        ("prefix_lm", "encoder", "config.model.name"),
        ("mixture_of_denoisers", "encoder", "config.model.name"),
        ("autoregressive", "encoder", "config.model.name"),
    ],
)
def test_a_model_of_another_family_is_refused(name, model, where, make, runs):
    vocabulary = pretrainx.core.vocabulary.Vocabulary(
        300,
        tuple((special, index) for index, special in enumerate(("pad", "eos", *SPECIALS))),
        sentinels=tuple(range(299, 280, -1)),
    )
    recipe = parse({"train": {"steps": 200, "batch_size": 8}, "objective": {"name": name}, "model": {"name": model}})
    with pytest.raises(ConfigError) as caught:
        recipe.objective.build(recipe.model, vocabulary, 32, recipe.precision)
    assert caught.value.where == where and "--config.model.name=" in caught.value.do


def test_fields_that_follow_from_the_tokens():
    """A row is a text of its own, padding behind it."""
    tokenizer, said = Tokenizer.of_bytes(), "One two. Three? Four..."
    ids = np.array(tokenizer.encode_batch([said])[0])
    tokens = np.pad(ids, (0, 5), constant_values=tokenizer.vocabulary.special("pad"))[None]
    made = {name: make()[0] for name, make in following(tokens, tokenizer).items()}
    assert np.flatnonzero(made["words"]).tolist() == [0, 3, 8, 15]  # a word begins with the space before it
    assert np.flatnonzero(made["sentences"]).tolist() == [7, 14, 20]  # a stop that follows no other
    assert made["length"] == len(said) and made["valid"]
    np.testing.assert_array_equal(made["segments"], [1] * len(said) + [0] * 5)


def test_rows_of_each_task_must_divide_over_the_devices(make):
    """Eight devices: of 8 rows each of two tasks has 4."""
    recipe = parse(make("mixture_of_denoisers", train={"batch_size": 8}))
    vocabulary = prepare(recipe.data, recipe.data.cache, lambda line: None).vocabulary
    with pytest.raises(ConfigError, match="task 'regular' do not divide") as caught:
        assemble(recipe, vocabulary)
    assert caught.value.where == "config.train.batch_size" and "4 of 8 rows over 8" in caught.value.why
    odd = parse(make("mixture_of_denoisers", evals={"batch_size": 24}))
    with pytest.raises(ConfigError, match="do not divide") as caught:
        assemble(odd, vocabulary)
    assert caught.value.where == "config.evals.batch_size"
