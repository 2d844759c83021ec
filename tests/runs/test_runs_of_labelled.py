"""Runs on labelled text: figures during a run and after it, loading, evaluation, a start from pretraining, what is refused."""

import json

import numpy as np
import pytest

import pretrainx
from pretrainx.cli.main import main
from pretrainx.core import paths
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.data.labelled import prepare_labelled
from pretrainx.runs.dry_run import dry_run
from pretrainx.runs.train import train

pytestmark = pytest.mark.xdist_group("labelled")
STEPS = 30
MODEL = {"name": "encoder", "width": 16, "depth": 1, "heads": 2, "positions": "rotary", "unroll": 0}
WORDS = {"good": ("fine", "lovely", "great"), "bad": ("dull", "awful", "poor")}


def write(path, count, seed):
    """Reviews of films, two of each: one word of each says which class it is of, but for one in ten."""
    rng, lines = np.random.default_rng(seed), []
    for number in range(count):
        label = "good" if rng.random() < 0.7 else "bad"
        said = label if rng.random() < 0.9 else "good"
        lines.append({"text": f"it is {rng.choice(WORDS[said])}", "label": label, "film": f"{seed}/{number // 2}"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    data = {
        "name": "labelled",
        "paths": [write(root / "train.jsonl", 200, 0)],
        "test_paths": [write(root / "test.jsonl", 50, 1)],
        "group": "film",
        "tokenizer": "bytes",
        "specials": ["cls", "sep"],
        "length": 16,
        "cache": str(root / "data"),
    }
    return {
        "objective": {"name": "sequence_classification"},
        "model": MODEL,
        "data": data,
        "schedule": {"name": "constant", "peak": 1e-2},
        "train": {"steps": STEPS, "batch_size": 16, "log_every": 10, "eval_every": 15},
        "checkpoint": {"every": 20},
    }


@pytest.fixture(scope="module")
def trained(values, tmp_path_factory):
    """The workdir of a finished run. Not to be written to but by `eval`."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    said = []
    assert train(values, workdir, say=said.append) == 0
    assert any("training examples, 2 classes" in line for line in said)
    return workdir


def test_a_class_is_learned_and_measured_on_the_test_split_at_the_end(trained):
    first, last = (record for record in read_metrics(trained / "metrics.jsonl") if "eval/held_out/loss" in record)
    assert not any("/test/" in name for name in first) and last["step"] == STEPS
    assert last["eval/held_out/loss"] < first["eval/held_out/loss"] and "perf/examples_per_s" in last
    accuracy, majority = last["eval/test/metric/accuracy"], last["eval/test/majority"]
    assert majority + 0.1 < accuracy < 1
    assert last["eval/test/half_width/accuracy"] == pytest.approx(1.96 * (accuracy * (1 - accuracy) / 50) ** 0.5)
    labels = [
        line["label"] for line in read(json.loads((trained / "config.json").read_text())["data"]["test_paths"][0])
    ]
    assert majority == pytest.approx(labels.count("good") / 50)


def test_the_run_loads_and_is_evaluated_again(trained, capsys):
    run = pretrainx.load(trained)
    rows = prepare_labelled(run.config.data, run.config.data.cache, lambda line: None).rows("test", run.objective.reads)
    batch = rows.rows(range(len(rows)))
    found = run.outputs({"tokens": batch["tokens"]}, ["logits", "features"])
    assert found["logits"].shape == (50, 2) and found["features"].shape == (50, 16)
    accuracy = (np.asarray(found["logits"]).argmax(1) == batch["label"]).mean()
    last = read_metrics(trained / "metrics.jsonl")[-1]
    assert accuracy == pytest.approx(last["eval/test/metric/accuracy"])
    assert run.loss(batch)["loss"] == pytest.approx(last["eval/test/loss"], rel=1e-5)
    assert run.about.classes == ("bad", "good") and run.tokenizer.decode(batch["tokens"][0]).startswith("it is")
    assert main(["eval", f"--workdir={trained}"]) == 0
    (record,) = read(trained / "evals.jsonl")
    assert record["eval/task/test/metric/accuracy"] == last["eval/test/metric/accuracy"]
    assert record["eval/task/test/half_width/accuracy"] > 0 and "eval/held_out/loss" in record


@pytest.mark.slow
@pytest.mark.rotated
def test_batches_are_replayed_and_shown(trained, capsys):
    assert main(["replay", f"--workdir={trained}", "--step=20"]) == 0
    assert "the same to the bit" in capsys.readouterr().out
    assert main(["data", "inspect", f"--workdir={trained}", "--step=3", "--rows=2"]) == 0
    assert "<cls>it is" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("name", ["autoregressive", "masked_lm"])
def test_a_task_starts_from_pretraining(values, tmp_path, name):
    """Every parameter of the model is the pretrained one; the head is new. Nothing is renamed."""
    text = tmp_path / "text.txt"
    text.write_text("it is fine. " * 300)
    specials = values["data"]["specials"] + ["mask"]
    model = {key: value for key, value in MODEL.items() if key not in ("name", "positions")}
    model |= {"name": "decoder" if name == "autoregressive" else "encoder", "max_length": 16}
    before = {
        "objective": {"name": name},
        "model": model,
        "data": {"source": "text", "paths": [str(text)], "tokenizer": "bytes", "specials": specials, "length": 16},
        "train": {"steps": 2, "batch_size": 8},
        "schedule": {"name": "constant"},
        "evals": {"samples": {"rows": 0}},
    }
    before["data"]["held_out"] = 0.3
    assert train(before, tmp_path / "before", say=lambda line: None) == 0
    after = {**values, "model": model, "init_from": str(tmp_path / "before")}
    after |= {"data": {**values["data"], "specials": specials, "cache": ""}, "train": {"steps": 1, "batch_size": 8}}
    after["optimizer"] = {"name": "sgd"}
    after["schedule"] = {"name": "constant", "peak": 1e-30}
    assert train(after, tmp_path / "after", say=lambda line: None) == 0
    found = {}
    for run in ("before", "after"):
        found[run] = {path: np.asarray(leaf) for path, leaf in paths.leaves(pretrainx.load(tmp_path / run).params)}
    new = {path for path in found["after"] if path.startswith("task/")}
    assert new == {"task/classes/bias", "task/classes/kernel"}
    for path in found["after"].keys() - new:
        assert np.array_equal(found["after"][path], found["before"][path]), path


@pytest.mark.slow
@pytest.mark.rotated
def test_a_dry_run_shows_labels(values, tmp_path):
    said = []
    assert dry_run(values, tmp_path / "run", say=said.append) == 0
    text = "\n".join(said)
    assert "the test split at the end" in text and "batch label" in text and "per example" in text


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("target", ["number", "tags", "span", "text"])
def test_every_task_runs(tmp_path, target, capsys):
    """From a file to figures with intervals, from the command line."""
    label = {"number": 0.5, "tags": ["x", "y"], "span": {"start": 2, "text": "b"}, "text": "yes"}[target]
    other = {"number": 1.5, "tags": ["y", "x"], "span": {"start": 0, "text": "a"}, "text": "no"}[target]
    lines = [
        {
            "text": ["a", f"{n}"] if target == "tags" else f"a {n}",
            "second": "a b",
            "label": (label, other)[n % 2],
            "group": n,
        }
        for n in range(60)
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = {"number": "sequence_regression", "tags": "token_classification", "span": "question_answering"}
    model = {"name": "encoder_decoder" if target == "text" else "encoder", "width": 16, "depth": 1, "heads": 2}
    data = {
        "name": "labelled",
        "paths": [str(tmp_path / "all.jsonl")],
        "target": target,
        "group": "group",
        "length": 16,
    }
    data |= {"tokenizer": "bytes", "specials": ["cls", "sep"], "target_length": 6, "held_out": 0.3}
    config = {
        "objective": {"name": names.get(target, "text_to_text")},
        "model": model,
        "data": data | ({"second": "second"} if target == "span" else {}),
        "train": {"steps": 2, "batch_size": 8, "log_every": 1},
        "schedule": {"name": "constant"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = f"--workdir={tmp_path / 'run'}"
    assert main(["train", f"--config={tmp_path / 'config.json'}", run]) == 0
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    metric = {"number": "squared_error", "tags": "accuracy", "span": "f1", "text": "exact"}[target]
    assert {f"eval/held_out/metric/{metric}", f"eval/held_out/half_width/{metric}"} <= last.keys()
    assert ("eval/held_out/constant_error" in last) == (target == "number")
    assert ("eval/held_out/majority" in last) == (target == "tags")
    assert main(["data", "inspect", run, "--step=0", "--rows=1"]) == 0
    assert main(["eval", run]) == 0 and main(["data", "verify", f"--path={tmp_path / 'run' / 'data'}"]) == 0
    shown = capsys.readouterr().out
    assert f"half_width/{metric}" in shown and "is whole" in shown


def test_a_corpus_has_no_labels_and_labels_are_no_corpus(values, tmp_path, capsys):
    for name, do in (("masked_lm", "sequence_classification"), ("simclr", "sequence_classification")):
        config = tmp_path / "config.json"
        config.write_text(json.dumps({**values, "objective": {"name": name}}))
        assert main(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 2
        assert "the data are labelled text" in (shown := capsys.readouterr().err) and do in shown
