"""A run and its dry run tell which large leaves lie whole on every device of a mesh that divides weights."""

import json

import pytest

from pretrainx.runs.dry_run import dry_run
from pretrainx.runs.train import train
from pretrainx.training import replicated


@pytest.mark.slow
@pytest.mark.xdist_group("operate")
def test_told_before_the_first_step(make_values, tmp_path, monkeypatch):
    """With the limit at 256 bytes: on tensor 8 what is as wide as the stream: a parameter, two moments and an average each."""
    monkeypatch.setattr(replicated, "LARGE", 256)
    values, said = make_values(mesh={"data": 1, "tensor": 8}, train={"steps": 3}), []
    assert dry_run(values, tmp_path / "dry", say=said.append) == 0
    assert train(values, tmp_path / "run", say=lambda line: None) == 0
    events = map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
    warned = [event["text"] for event in events if event["kind"] == "warning"]
    for told in ("\n".join(said), "\n".join(warned)):
        assert "params/layers/mlp_norm/scale: 256 bytes are whole on each device (axes layers, norm)" in told
        assert "whole on each of 8 devices: " in told and " more of over 256 bytes among them" in told
