"""Runs that a plan writes are runs: the smallest of each shipped study trains to its last step on the data that all share."""

import json
import math
from pathlib import Path

import pytest

from pretrainx.cli.config_file import load
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.runs.train import train
from pretrainx.scaling import manifest
from pretrainx.scaling.plan import plan

STUDIES = Path(__file__).parents[2] / "configs" / "scaling"
TINY = [
    ("data.limit", "256"),
    ("study.count", "1"),
    ("study.sizes", "3"),
    ("study.smallest", "2e10"),
    ("evals.limit", "64"),
]
QUIET = [
    ("evals.representations.knn_k", "0"),
    ("evals.representations.probe", "''"),
    ("evals.representations.pictures", "0"),
]


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize(
    "name, changes",
    [
        ("smiles.py:smoke", []),
        ("studies.py:smoke", []),
        ("studies.py:mae", TINY + QUIET),
        ("studies.py:clip", TINY + QUIET),
    ],
)
def test_the_smallest_run_trains(name, changes, tmp_path):
    found = plan(load(str(STUDIES / name), changes), tmp_path, lambda line: None, prepare=True)
    run = found.runs[0]
    prepared = (tmp_path / "data" / "data.json").stat().st_mtime_ns
    config = json.loads(manifest.config_path(tmp_path, run).read_text())
    workdir = manifest.workdir(tmp_path, run)
    assert train(config, workdir, say=lambda line: None) == 0
    assert read(workdir / "events.jsonl")[-1]["kind"] == "done" and not (workdir / "data").exists()
    last = read_metrics(workdir / "metrics.jsonl")[-1]
    assert last["step"] == run.facts["steps"] and math.isfinite(last["eval/held_out/loss"])
    assert (tmp_path / "data" / "data.json").stat().st_mtime_ns == prepared
    assert run.facts["unique_tokens"] <= run.facts["corpus"]
    # The same study planned again finds the run that has begun.
    assert plan(load(str(STUDIES / name), changes), tmp_path, lambda line: None).runs[0].id == run.id
