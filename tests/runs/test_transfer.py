"""`pretrainx eval --evals=transfer`: a run is trained on for a task, beside scratch; what is done is not done again."""

import json

import pytest

from pretrainx.cli.main import main
from pretrainx.core.errors import ConfigError
from pretrainx.core.json_lines import read
from pretrainx.data.shapes import CLASSES
from pretrainx.report.page import write
from pretrainx.runs.evals import evaluate
from pretrainx.runs.train import train

SHARED = {
    "model": {"name": "vit", "patch": 14, "width": 16, "depth": 1, "heads": 2, "pool": "mean", "unroll": 0},
    "optimizer": {"name": "adamw", "b2": 0.99},
    "schedule": {"name": "constant", "peak": 3e-3, "warmup": 2},
    "evals": {"limit": 64, "representations": {"knn_k": 0, "pictures": 0, "probe": ()}},
    "checkpoint": {"every": 100, "keep": 1},
}
DATA = {"name": "images", "source": "shapes", "size": 28, "channels": 1, "limit": 256}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run that has learned the task with all labels, and a task that asks for few of them."""
    root = tmp_path_factory.mktemp("transfer")
    task = SHARED | {
        "objective": {"name": "classification", "augment": {"name": "none"}},
        "adapt": {"name": "lora", "targets": ".*(query|value)"},
        "data": DATA | {"cache": str(root / "data")},
        "train": {"steps": 12, "batch_size": 32, "log_every": 6},
    }
    learned = task | {"adapt": {"name": "full"}, "train": {"steps": 60, "batch_size": 64, "log_every": 30}}
    assert train(learned, root / "source", say=lambda line: None) == 0
    (root / "task.json").write_text(json.dumps(task))
    return root


@pytest.mark.slow
@pytest.mark.rotated
def test_a_curve_over_labels(source, capsys):
    """Through the command line: a start that knows the task is above scratch; the picture is in the report."""
    run = source / "source"
    words = ["eval", f"--workdir={run}", "--evals=transfer", f"--task={source / 'task.json'}"]
    words += ["--config.evals.transfer.labels=(2,16)", "--config.evals.transfer.seeds=2"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "transfer 8/8" in told and "gain/16" in told
    (record,) = read(run / "evals.jsonl")
    found = {name.removeprefix("eval/transfer/test/"): value for name, value in record.items() if "transfer" in name}
    assert set(found) >= {"accuracy/2", "accuracy/2/interval", "scratch/accuracy/16", "gain/2", "negative/2"}
    assert found["accuracy/16"] > found["scratch/accuracy/16"] and found["negative/16"] == 0
    assert len(list((run / "transfer").glob("*/*-*-*"))) == 8
    configs = {path.parent.name: json.loads(path.read_text()) for path in (run / "transfer").glob("*/*/config.json")}
    assert configs["pretrained-2-1"]["adapt"]["name"] == "lora" and configs["pretrained-2-1"]["init_from"] == str(run)
    assert configs["scratch-2-1"]["adapt"]["name"] == "full" and not configs["scratch-2-1"]["init_from"]
    assert configs["pretrained-2-0"]["train"]["batch_size"] == 2 * len(CLASSES), "no larger than what there is"
    assert (run / "samples" / "00000060-transfer.png").read_bytes()[:4] == b"\x89PNG"
    assert "transfer" in write(source / "page.html", [run]).read_text()
    before = {path: path.stat().st_mtime_ns for path in (run / "transfer").rglob("metadata")}
    assert main(words) == 0 and before == {
        path: path.stat().st_mtime_ns for path in (run / "transfer").rglob("metadata")
    }


@pytest.mark.slow
@pytest.mark.rotated
def test_a_source_that_was_trained_on_is_measured_anew(source):
    """Points are of a checkpoint: those of an older one are no points of the newer."""
    values = json.loads((source / "source" / "config.json").read_text())
    task = json.loads((source / "task.json").read_text())
    few = {"transfer": {"labels": (2,), "seeds": 2, "scratch": False}}
    for steps in (61, 62):
        values["train"]["steps"] = steps
        assert train(values, source / "source", say=lambda line: None) == 0
        evaluate(source / "source", names=("transfer",), task=task, evals=few, say=lambda line: None)
        points = {path.parent.name for path in (source / "source" / "transfer").glob("*/pretrained-2-0")}
        newest = max(points, key=lambda name: (source / "source" / "transfer" / name).stat().st_mtime)
        config = json.loads((source / "source" / "transfer" / newest / "pretrained-2-0" / "config.json").read_text())
        assert config["init"]["step"] == steps
    assert len(points) >= 2


@pytest.mark.slow
@pytest.mark.rotated
def test_what_cannot_be_asked(source):
    with pytest.raises(ConfigError, match="does not apply"):
        evaluate(source / "source", names=("transfer",), say=lambda line: None)
    text = {"train": {"steps": 200, "batch_size": 8}}
    asked = lambda task, **transfer: evaluate(
        source / "source", names=("transfer",), task=task, evals={"transfer": transfer}, say=lambda line: None
    )
    with pytest.raises(ConfigError, match="cannot be cut to few labels"):
        asked(text)
    task = json.loads((source / "task.json").read_text())
    with pytest.raises(ConfigError, match="fewer labelled examples") as caught:
        asked(task, labels=(2, 1000))
    assert "1000 of each class are 8000" in caught.value.why
    with pytest.raises(ConfigError, match="a metric that grows"):
        asked(task, labels=(2,), metric="loss")
