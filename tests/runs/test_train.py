"""The main job in one process on a small corpus: what it writes, that it resumes, that its config comes back."""

import json
import re

import numpy as np
import pytest

from pretrainx.core.errors import NonFiniteError
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.data.text import prepare
from pretrainx.runs.parts import assemble
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train

STEPS = 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six documents of words drawn by a Markov chain: there is something to learn."""
    directory = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    words = ["def", "return", "class", "self", "for", "in", "range", "x", "y", "(", ")", ":"]
    follow = rng.dirichlet(np.full(len(words), 0.1), len(words))
    for number in range(6):
        word, text = 0, []
        for _ in range(1500):
            word = rng.choice(len(words), p=follow[word])
            text.append(words[word])
        (directory / f"{number}.txt").write_text(" ".join(text))
    return directory


def config(corpus, **changes):
    values = {
        "model": {"name": "decoder", "width": 32, "depth": 2, "heads": 2},
        "data": {
            "name": "text", "source": "text", "paths": [str(corpus)], "tokenizer": "bytes", "length": 32, "held_out": 0.3,
        },
        "schedule": {"name": "cosine", "peak": 3e-3, "warmup": 2},
        "ema": {"decay": 0.9},
        "train": {"steps": STEPS, "batch_size": 8, "log_every": 3, "eval_every": 6},
        "checkpoint": {"every": 6},
        "evals": {"trigram": True, "tokens": 512, "samples": {"prompts": ["def "]}},
    }  # fmt: skip
    for section, part in changes.items():
        values[section] = {**values.get(section, {}), **part} if isinstance(part, dict) else part
    return values


@pytest.mark.xdist_group("train")
def test_a_run_and_its_files(corpus, tmp_path):
    said = []
    assert train(config(corpus), tmp_path / "run", say=said.append) == 0
    run = tmp_path / "run"
    metrics = {record["step"]: record for record in read_metrics(run / "metrics.jsonl")}
    assert sorted(metrics) == [3, 6, 9, 12]
    keys = {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "perf/tokens_per_s",
        "perf/mfu",
        "perf/data_wait",
        "batch_hash",
    }
    assert keys <= set(metrics[6]) and {
        "eval/held_out/loss",
        "eval/held_out/bits_per_byte",
        "eval/trigram/loss",
    } <= set(metrics[6])
    assert metrics[12]["eval/held_out/loss"] < metrics[6]["eval/held_out/loss"]
    kinds = [event["kind"] for event in read(run / "events.jsonl")]
    assert kinds.count("saved") == 2 and {"start", "first_step", "done"} <= set(kinds)
    assert sorted(path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()) == ["12", "6"]
    assert "'def ', greedy" in (run / "samples" / "00000012.txt").read_text()
    report = (run / "report.html").read_text()
    assert "<svg" in report and "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", report).replace(
        "http://www.w3.org", ""
    )
    assert any(re.match(r"step 12/12 100.0% \| loss .*tok/s \| mfu .*eta", line) for line in said)

    # config.json is accepted as a config, and is the same recipe.
    assert parse(json.loads((run / "config.json").read_text())) == parse(config(corpus))

    # The same command again has nothing left to do, and says so.
    said.clear()
    assert train(config(corpus), run, say=said.append) == 0
    assert any("resumed from step 12" in line for line in said)
    assert len(read_metrics(run / "metrics.jsonl")) == 4

    # More steps go on from there; the schedule's new length is told.
    longer = config(corpus, train={"steps": STEPS + 3})
    assert train(longer, run, say=said.append) == 0
    assert any("config.train.steps is 15, was 12" in line for line in said)
    assert read_metrics(run / "metrics.jsonl")[-1]["step"] == 15


@pytest.mark.xdist_group("train")
def test_init_from_another_run(corpus, tmp_path):
    """Parameters are those of the other run; the step, the data and the optimizer start anew."""
    said = []
    assert train(config(corpus), tmp_path / "first", say=said.append) == 0
    second = config(corpus, init_from=str(tmp_path / "first"), train={"steps": 3, "eval_every": 0})
    assert train(second, tmp_path / "second", say=said.append) == 0
    assert any(re.search(r"parameters from .*first, step 12: (\d+) of \1 leaves", line) for line in said)
    first, second = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("first", "second"))
    assert second[0]["train/loss"] < first[0]["train/loss"] - 0.2


@pytest.mark.xdist_group("train")
def test_diverging_run_stops_with_its_own_code(corpus, tmp_path):
    """A learning rate that overflows: steps are skipped, then the run ends with exit 6 and nothing non-finite is saved."""
    broken = config(
        corpus,
        optimizer={"name": "sgd"},
        schedule={"peak": 1e38},
        guard={"patience": 3},
        train={"log_every": 1, "grad_clip": 0.0},
    )
    with pytest.raises(NonFiniteError) as caught:
        train(broken, tmp_path / "run", say=lambda line: None)
    assert caught.value.exit_code == 6 and "3 steps in a row" in str(caught.value)
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]
    assert [event["kind"] for event in read(tmp_path / "run" / "events.jsonl")].count("skipped") == 3


@pytest.mark.xdist_group("train")
def test_two_vocabularies_one_config(corpus, tmp_path):
    """The vocabulary comes from the tokenizer, not from the config; the model follows it."""
    recipe = parse(config(corpus))
    text = prepare(recipe.data, tmp_path / "bytes", lambda line: None)
    merged = parse(config(corpus, data={"tokenizer": "bpe", "vocab_size": 300}))
    more = prepare(merged.data, tmp_path / "bpe", lambda line: None)
    small, large = assemble(recipe, text.vocabulary), assemble(merged, more.vocabulary)
    assert small.objective.vocabulary.size == 258 < large.objective.vocabulary.size <= 300
    assert small.objective != large.objective
    assert assemble(recipe, text.vocabulary).objective == small.objective
    assert assemble(recipe, text.vocabulary).optimizer == small.optimizer
    assert hash(assemble(recipe, text.vocabulary).options) == hash(small.options)
