"""The queue, with real processes that know no JAX: who is started, again, in place of whom, and what is said of each."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pretrainx.core.errors import ConfigError, Preempted, PretrainxError
from pretrainx.core.json_lines import read
from pretrainx.scaling import claims, manifest, queue, status
from pretrainx.scaling.live import Live
from scaling import fake_runs


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Runs a study of fake runs: (the queue's lines, the error it raised or None)."""
    monkeypatch.setattr(queue, "PAUSE", 0.01)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def go(*runs, **options):
        monkeypatch.setattr(queue, "PROGRAM", fake_runs.study(tmp_path, *runs))
        said, raised = [], None
        try:
            queue.run(tmp_path, say=said.append, **options)
        except PretrainxError as error:
            raised = error
        return said, raised

    return go


def starts(directory, name):
    path = directory / "runs" / name / "starts"
    return len(path.read_text()) if path.exists() else 0


def found(directory, name):
    return json.loads((directory / "runs" / f"{name}.json").read_text())


def test_done_runs_are_skipped_and_failed_ones_tried_again(go, tmp_path):
    """Exit 75 is resumed for nothing; a crash within its retries goes on; 6 and a loss that rose are results, never repeated; a
    wrong config is not tried twice."""
    risen = (1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0)
    runs = [
        fake_runs.run("good"),
        fake_runs.run("crashing", (1, "kill", 0)),
        fake_runs.run("preempted", (75, 75, 75, 75, 0)),
        fake_runs.run("diverging", (6,)),
        fake_runs.run("risen", losses=risen),
    ]
    said, raised = go(*runs, workers=2)
    assert raised is None and said[-1].startswith("3 done, 2 diverged; 100.0% of the work")
    names = [run.id for run in runs]
    assert [starts(tmp_path, name) for name in names] == [1, 3, 5, 1, 1]
    assert [found(tmp_path, name)["status"] for name in names] == ["done", "done", "done", "diverged", "diverged"]
    assert found(tmp_path, "diverging")["why"] == "it went wrong in start 0: so it is"
    assert found(tmp_path, "risen")["why"] == "the training loss ends at 3, above 1 at its beginning"
    assert any("crashing: stopped" in line and "ended by SIGKILL" in line for line in said)
    rows = read(tmp_path / "results.jsonl")
    assert [row["status"] for row in rows] == [found(tmp_path, name)["status"] for name in names]
    said, raised = go(*runs)
    assert raised is None and [starts(tmp_path, name) for name in names] == [1, 3, 5, 1, 1]


@pytest.mark.slow
@pytest.mark.rotated
def test_failures_end_the_sweep_by_an_error_and_are_tried_by_the_next(go, tmp_path):
    runs = [fake_runs.run("wrong", (2,)), fake_runs.run("broken", (1,)), fake_runs.run("good")]
    said, raised = go(*runs, retries=1)
    assert not any(line.startswith("warning") for line in said)
    assert str(raised).startswith("2 of 3 runs failed") and "wrong.log" in raised.where and "so it is" in raised.why
    assert [starts(tmp_path, run.id) for run in runs] == [1, 2, 1] and found(tmp_path, "good")["status"] == "done"
    assert go(*runs, retries=0)[1] is not None
    assert [starts(tmp_path, run.id) for run in runs] == [2, 3, 1]


def test_a_signal_ends_all_runs_with_their_state_saved(go, tmp_path):
    runs = [fake_runs.run("first", ("signal", 0)), fake_runs.run("second", ("sleep", 0)), fake_runs.run("third")]
    before = signal.getsignal(signal.SIGTERM)
    said, raised = go(*runs, workers=2)
    assert isinstance(raised, Preempted) and raised.exit_code == 75 and "2 stopped, 1 waiting" in str(raised)
    assert signal.getsignal(signal.SIGTERM) is before
    events = [
        [event["kind"] for event in read(tmp_path / "runs" / name / "events.jsonl")] for name in ("first", "second")
    ]
    assert events == [["start", "signal"]] * 2 and not (tmp_path / "runs" / "third").exists()
    assert not (tmp_path / "runs" / "first.json").exists()
    said, raised = go(*runs, workers=2)
    assert raised is None and [starts(tmp_path, run.id) for run in runs] == [2, 2, 1]


@pytest.mark.slow
@pytest.mark.rotated
def test_each_worker_has_its_share_of_the_cores(go, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    go(fake_runs.run("first"), fake_runs.run("second"), workers=2)
    given = [read(tmp_path / "runs" / name / "events.jsonl")[0]["cores"] for name in ("first", "second")]
    assert sorted(given) == sorted([cores[: len(cores) // 2], cores[len(cores) // 2 :]])
    assert sorted(os.sched_getaffinity(0)) == cores


DRIVER = """\
import sys
from pretrainx.scaling import queue
queue.PROGRAM = tuple(sys.argv[2:])
queue.run(sys.argv[1], workers=1)
"""


def test_a_killed_queue_leaves_no_run_behind_and_two_queues_share(tmp_path, go):
    """What a queue has, another one leaves alone; when it is killed its run saves and ends, and the other takes it over."""
    runs = [fake_runs.run("long", ("sleep", 0)), fake_runs.run("short")]
    program = fake_runs.study(tmp_path, *runs)
    first = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), *program], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not status.json_lines.read(tmp_path / "runs" / "long" / "metrics.jsonl"):
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.01)
        assert claims.claim(tmp_path / "runs" / "long.lock") is None
        killing = subprocess.Popen(  # once the other queue has done what is free
            ["sh", "-c", f"until [ -e {tmp_path}/runs/short.json ]; do sleep 0.05; done; kill -9 {first.pid}"]
        )
        said, raised = go(*runs)
        assert raised is None and said[-1].startswith("2 done") and killing.wait() == 0
    finally:
        first.kill()
        first.wait()
    assert [starts(tmp_path, "long"), starts(tmp_path, "short")] == [2, 1]
    kinds = [event["kind"] for event in read(tmp_path / "runs" / "long" / "events.jsonl")]
    assert kinds == ["start", "signal", "start", "done"]


def test_what_another_queue_ended_stands_in_the_table(tmp_path):
    """A queue that saw a run waiting or training elsewhere does not write that over what its files say by now."""
    runs = [fake_runs.run("done"), fake_runs.run("failed")]
    fake_runs.study(tmp_path, *runs)
    made = queue.Queue(tmp_path, manifest.read(tmp_path), [], 2, Live(manifest.read(tmp_path), terminal=False))
    made.look(made.study.runs)
    made.standings["done"] = status.Standing(status.RUNNING)
    place = tmp_path / "runs" / "done"
    place.mkdir(parents=True)
    (place / "events.jsonl").write_text('{"kind": "done", "step": 10}\n')
    status.Verdict(status.FAILED, 1, 3, "why", "0.1", time.time()).write(tmp_path, runs[1])
    made.collect()
    assert [row["status"] for row in read(tmp_path / "results.jsonl")] == ["done", "failed"]


def test_no_study(tmp_path):
    with pytest.raises(ConfigError, match="not the directory of a study"):
        queue.run(tmp_path)
