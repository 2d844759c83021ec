"""Every shipped recipe trains in its `:smoke` form, without anything fetched, and its loss falls."""

from pathlib import Path

import pytest

from pretrainx.cli.config_file import load
from pretrainx.core.json_lines import read
from pretrainx.runs.train import train

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_smoke(path, tmp_path):
    values = load(f"{path}:smoke", [("train.log_every", "1"), ("train.batch_size", "16")])
    assert train(values, tmp_path, say=lambda line: None) == 0
    records = [record for record in read(tmp_path / "metrics.jsonl") if "train/loss" in record]
    losses = [record["train/loss"] for record in records]
    assert len(losses) == 20 and sum(losses[-3:]) / 3 < losses[0] - 0.3, losses
    assert all("perf/mfu" in record for record in records[1:])
