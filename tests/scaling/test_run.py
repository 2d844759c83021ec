"""`pretrainx scaling run` over real runs: killed in the middle, and again, it gives what it would have given."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from chaos.runs import write_corpus
from pretrainx.core.json_lines import read, read_metrics
from pretrainx.scaling.manifest import Manifest, Run
from scaling import fake_runs

STEPS = 60


def study(directory, corpus):
    """Two short runs that differ in width, saved every 10 steps."""
    runs = []
    for width in (16, 32):
        config = {
            "seed": 0,
            "objective": {"name": "autoregressive"},
            "model": {"name": "decoder", "width": width, "depth": 1, "heads": 2, "unroll": 0},
            "data": {"source": "text", "paths": [str(corpus)], "tokenizer": "bytes", "length": 32, "held_out": 0.05},
            "schedule": {"name": "cosine", "peak": 3e-3, "warmup": 5},
            "train": {"steps": STEPS, "batch_size": 8, "log_every": 1},
            "checkpoint": {"every": 10, "keep": 2},
            "evals": {"tokens": 1024, "batch_size": 8},
        }
        runs.append(Run(f"w{width}", {"model.width": width}, config, fake_runs.run("", tokens=STEPS * 256.0).facts))
    Manifest("grid", {}, {}, tuple(runs)).write(directory)
    return directory


def start(directory):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pretrainx", "scaling", "run", f"--workdir={directory}", "--workers=2"]
    with (directory.parent / f"{directory.name}.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


@pytest.mark.slow
@pytest.mark.chaos
def test_a_killed_study_resumes_bit_for_bit(tmp_path):
    """The queue is killed while both train: they save and end by themselves; run again, each goes on from its very step, and
    every loss of every step and the table are those of a study that nobody disturbed."""
    corpus = write_corpus(tmp_path / "corpus.txt")
    whole, broken = study(tmp_path / "whole", corpus), study(tmp_path / "broken", corpus)
    assert start(whole).wait(300) == 0, (tmp_path / "whole.txt").read_text()
    queue = start(broken)
    logged = lambda name: len(read(broken / "runs" / name / "metrics.jsonl"))
    try:
        deadline = time.monotonic() + 240
        while not any(3 < logged(name) < STEPS for name in ("w16", "w32")):
            assert queue.poll() is None and time.monotonic() < deadline, (tmp_path / "broken.txt").read_text()
            time.sleep(0.005)
    finally:
        os.kill(queue.pid, signal.SIGKILL)
        queue.wait()
    again = start(broken)  # at once: what the killed queue left behind is waited for, not started beside
    assert again.wait(300) == 0, (tmp_path / "broken.txt").read_text()
    signalled = [
        name
        for name in ("w16", "w32")
        if any(e["kind"] == "signal" for e in read(broken / "runs" / name / "events.jsonl"))
    ]
    assert signalled
    losses = lambda directory, name: [
        (record["step"], record.get("train/loss"), record.get("eval/held_out/loss"), record.get("batch_hash"))
        for record in read_metrics(directory / "runs" / name / "metrics.jsonl")
    ]
    for name in ("w16", "w32"):
        assert len(losses(whole, name)) == STEPS and losses(broken, name) == losses(whole, name)
    rows = [read(directory / "results.jsonl") for directory in (whole, broken)]
    compared = [
        [{key: row[key] for key in ("run", "status", "loss", "loss_error", "bits_per_byte")} for row in table]
        for table in rows
    ]
    assert compared[0] == compared[1] and all(row["status"] == "done" and row["loss_error"] > 0 for row in rows[0])
    assert json.loads((broken / "runs" / f"{signalled[0]}.json").read_text())["status"] == "done"
