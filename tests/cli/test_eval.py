"""The command `eval`: its table, what it adds to evals.jsonl, and what it refuses."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from chaos.runs import block_of
from pretrainx.cli.main import main
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.evals import ngram
from pretrainx.runs.evals import EVALUATIONS, Evaluations
from pretrainx.runs.load import load

pytestmark = pytest.mark.xdist_group("looking")

MASKED = {
    "objective.name": "masked_lm",
    "objective.special_tokens": "False",
    "model.name": "encoder",
    "model.depth": "1",
    "data.specials": "('mask',)",
    "train.steps": "2",
    "evals.tokens": "256",
    "evals.samples.rows": "0",
    "schedule.warmup": "1",
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    items = [
        {"prompt": "the end is", "choices": ["near", "a long way off"], "answer": number % 2} for number in range(4)
    ]
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, items)))
    return f"--choices={path}"


def evaluated(workdir, *words):
    """The record that the command adds."""
    before = len(read(workdir / "evals.jsonl"))
    assert main(["eval", f"--workdir={workdir}", *words]) == 0
    records = read(workdir / "evals.jsonl")
    assert len(records) == before + 1
    return records[-1]


def test_what_applies_is_evaluated(home, capsys):
    found = evaluated(home / "run")
    assert {name.split("/")[1] for name in found if "/" in name} == {"held_out", "trigram", "sampled"}
    logged = read_metrics(home / "run" / "metrics.jsonl")[-1]
    assert found["step"] == logged["step"] == 8
    for name in ("loss", "bits_per_byte"):
        assert found[f"eval/held_out/{name}"] == pytest.approx(logged[f"eval/held_out/{name}"], rel=1e-6)
    text = capsys.readouterr().out
    assert "run, step 8" in text and f"{found['eval/trigram/loss']:.6g}" in text
    assert found["eval/sampled/trigram_loss"] > found["eval/sampled/held_out/trigram_loss"]


def test_samples_of_a_text_that_is_shorter_than_a_row(home):
    found = Evaluations(load(home / "run"), "", 0, "", {}, print)
    tokens = np.arange(3, 33)
    text = SimpleNamespace(sequences=lambda: [tokens[:1], tokens])
    model = ngram.fit(tokens, found.run.tokenizer.vocabulary.size)
    found.evaluation = SimpleNamespace(length=40, held_out_rows={"": text}, trigram_model=model)
    assert found.sampled()["held_out/tokens"] == 15


def test_choices_of_an_earlier_step(home, questions):
    found = evaluated(home / "run", "--step=4", "--evals=choices", questions, "--demonstrations=2")
    assert found["step"] == 4 and found["eval/choices/chance"] == 0.5
    assert {f"eval/choices/{name}{end}" for name in ("none", "token", "byte", "pmi") for end in ("", "_std")} < set(
        found
    )
    pool = home / "pool.jsonl"
    pool.write_text('{"prompt": "in the end", "choices": ["all", "nothing"], "answer": 1}\n')
    words = ["--evals=choices", questions, "--demonstrations=1"]
    apart = evaluated(home / "run", *words, f"--demonstrations_from={pool}")
    assert apart["eval/choices/none_std"] == 0.0, "one is there to be drawn: each draw is the same"
    # The choices are always the same two, right in turns: without demonstrations one always wins, half of the time rightly.
    assert evaluated(home / "run", "--evals=choices", questions)["eval/choices/none"] == 0.5


@pytest.mark.slow
def test_a_masked_model(home, questions, tmp_path, capsys):
    """Fill-ins are shown and kept; the model's hits beside the trigram model's are those of held-out accuracy."""
    words = [f"--config.{key}={value}" for key, value in MASKED.items()]
    assert main(["train", f"--config={home}/recipe.py", f"--workdir={tmp_path}", *words]) == 0
    found = evaluated(tmp_path, questions)
    names = {name.split("/")[1] for name in found if "/" in name}
    assert names == {"held_out", "trigram", "pseudo_perplexity", "choices"}
    assert found["eval/trigram/model_accuracy"] == pytest.approx(found["eval/held_out/metric/accuracy"])
    assert found["eval/trigram/accuracy"] > 0.3 and found["eval/pseudo_perplexity/tokens"] == 256
    sample = (tmp_path / "samples" / "00000002-fill_in.txt").read_text()
    assert "[[" in sample and sample in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, says",
    [
        (["--evals=held-out"], "did you mean 'held_out'"),
        (["--evals=held_out,pseudo_perplexity"], "hide one token at a time"),
        (["--evals=fill_in"], "hides nothing inside a text"),
        (["--evals=choices"], "no questions are given"),
        (["--demonstrations=2"], "nothing to demonstrate"),
        (["--demonstrations=x"], "whole number"),
        (["--demonstrations_from=FILE.jsonl"], "their number is 0"),
    ],
)
def test_refused(words, says, home, capsys):
    before = read(home / "run" / "evals.jsonl")
    assert main(["eval", f"--workdir={home}/run", *words]) == 2
    assert says in block_of(capsys.readouterr().err)
    assert read(home / "run" / "evals.jsonl") == before


def test_the_help_names_every_evaluation(capsys):
    assert main(["eval", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in EVALUATIONS)
