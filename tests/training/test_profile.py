"""A trace of the steps that were asked for, and seconds booked to parts that add up to the wall time."""

import gzip
import json
import time

import jax
import numpy as np
import pytest

from pretrainx.core.errors import Preempted
from pretrainx.training.breakdown import OF_STEPS, PARTS, Breakdown, data_share, of_steps, rounded
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.loop import Loop, LoopConfig
from pretrainx.training.profile import Profile, ProfileConfig
from pretrainx.training.signals import Signals
from pretrainx.training.watchdog import Watchdog, WatchdogConfig
from pretrainx.training.writers import Journal, read
from toys.line import Line
from toys.small import ROWS, Small, batch

STEPS = 9
SHORTEST = 0.2  # seconds of an evaluation: what is slept is never less, and less than it may be left out


def trained(workdir, trace, slow_batch=-1, signal_after=-1, start=0.0):
    """(lines, events, seconds) of a loop whose evaluations last 0.2 s and whose batch `slow_batch` comes 0.3 s late."""
    run, given, began = Small(Line()), iter(range(STEPS)), time.perf_counter()
    clock = Breakdown()
    time.sleep(start)
    with Journal(workdir) as journal, Watchdog(WatchdogConfig(), workdir) as watchdog, Signals() as signals:

        def next_batch():
            step = next(given)
            time.sleep(0.3 if step == slow_batch else 0)
            signals.received = "SIGTERM" if step == signal_after else None
            return batch(x=np.full((ROWS, 2), 1.0))

        def evaluate(state, stop):
            time.sleep(SHORTEST)
            return {"held_out/loss": 1.0}

        loop = Loop(
            config=LoopConfig(STEPS, ROWS, log_every=3, eval_every=4),
            step=run.train,
            next_batch=next_batch,
            record_hash=str,
            evaluate=evaluate,
            checkpoints=(checkpoints := Checkpoints(workdir / "checkpoints", 1)),
            save_every=6,
            journal=journal,
            workdir=workdir,
            facts=lambda: {"config": {}, "data": {}, "wall": 0.0},
            units_per_step=ROWS,
            unit="rows",
            flops_per_step=None,
            peak=None,
            patience=5,
            wall=lambda: 0.0,
            watchdog=watchdog,
            say=lambda text: None,
            clock=clock,
            trace=trace,
        )
        try:
            loop.run(run.state, signals)
        except Preempted:
            assert signal_after >= 0
        finally:
            passed = time.perf_counter() - began
            checkpoints.close()
    return read(workdir / "metrics.jsonl"), read(workdir / "events.jsonl"), passed


def booked(lines, events):
    """Seconds of each part, from what is on the disk."""
    sums = dict.fromkeys(PARTS, 0.0)
    for line in lines:
        for part in PARTS:
            sums[part] += line.get(f"perf/seconds/{part}", 0.0)
    for event in events:
        if event["kind"] == "seconds":
            for part in PARTS:
                sums[part] += event.get(part, 0.0)
    return sums


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("traced")
    with jax.enable_x64(True):
        return workdir, *trained(workdir, ProfileConfig(steps=2, start=4), slow_batch=5, start=0.25)


def test_the_parts_add_up_to_the_wall_time(run):
    _, lines, events, passed = run
    sums = booked(lines, events)
    assert passed - SHORTEST < sum(sums.values()) <= passed
    assert sums["eval"] >= 3 * SHORTEST and sums["data"] >= 0.3 and sums["start"] >= 0.25  # after steps 4, 8 and 9
    assert all(sums[part] > 0 for part in PARTS)


def test_rates_leave_out_what_is_not_of_the_steps(run):
    """Of the line after the late batch: waiting for it is in them; evaluations and the trace of that time are not."""
    _, lines, _, _ = run
    line = next(line for line in lines if line["step"] == 6 and "perf/data_wait" in line)
    steps = sum(line.get(f"perf/seconds/{part}", 0.0) for part in OF_STEPS)
    assert line["perf/examples_per_s"] == pytest.approx(3 * ROWS / steps, rel=1e-3)
    assert line["perf/data_wait"] == pytest.approx(line["perf/seconds/data"] / steps, rel=1e-3)
    assert line["perf/seconds/data"] >= 0.3
    first = next(line for line in lines if line["step"] == 3)
    assert (
        "perf/seconds/compile" in first and "perf/seconds/compile" not in line and abs(line["time"] - time.time()) < 600
    )


def test_the_trace_holds_the_steps_that_were_asked_for(run):
    workdir, _, events, _ = run
    event = next(event for event in events if event["kind"] == "profile")
    assert (event["directory"], event["first"], event["steps"], event["step"]) == ("profile", 4, 2, 6)
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    with gzip.open(next((workdir / "profile").rglob("*.trace.json.gz"))) as file:
        found = [
            each.get("args", {}).get("step_num")
            for each in json.load(file)["traceEvents"]
            if each.get("name") == "train"
        ]
    assert sorted(found) == ["4", "5"]


@pytest.mark.slow
def test_a_signal_ends_the_trace_and_books_the_rest(tmp_path):
    with jax.enable_x64(True):
        lines, events, passed = trained(tmp_path, ProfileConfig(steps=50, start=1), signal_after=4)
    event = next(event for event in events if event["kind"] == "profile")
    assert (event["first"], event["steps"]) == (1, 4)
    assert [each["step"] for each in events if each["kind"] == "seconds"] == [5]
    assert passed - SHORTEST < sum(booked(lines, events).values()) <= passed


def profile(config, tmp_path):
    told, order = [], []
    record = lambda kind, **facts: told.append((kind, facts))
    return Profile(config, tmp_path, lambda: order.append("settled"), record, lambda text: None), told, order


def test_a_trace_that_fails_is_a_warning(tmp_path):
    """It is tried once, and training goes on; the devices are waited for first."""
    (tmp_path / "profile").write_text("in the way")
    traced, told, order = profile(ProfileConfig(steps=2, start=0), tmp_path)
    for done in range(3):
        traced.before(done)
        traced.after(done + 1)
    traced.close(3)
    assert [kind for kind, _ in told] == ["warning"] and "no trace: " in told[0][1]["text"] and order[0] == "settled"


def test_steps_that_lie_behind_are_told_once(tmp_path):
    traced, told, _ = profile(ProfileConfig(steps=3), tmp_path)
    traced.tell_if_late(12)
    assert not told
    traced.tell_if_late(13)
    assert told[0][1]["text"] == "no trace: steps 10 to 12 lie behind step 13; see config.profile.start"
    (tmp_path / "profile").mkdir()
    traced.tell_if_late(13)
    off, silent, _ = profile(ProfileConfig(), tmp_path)
    off.tell_if_late(100)
    assert len(told) == 1 and not silent and not any(off.before(done) for done in range(30))


def test_a_call_is_told_apart_by_the_processor_time():
    """Working is the host's, waiting is the devices'."""
    clock = Breakdown()
    clock.before_call()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    time.sleep(0.1)
    clock.book_call()
    lap = clock.lap()
    assert 0.05 <= lap["host"] < lap["device"] and lap["device"] >= 0.1
    assert set(rounded(lap, "x/")) == {"x/host", "x/device"} and not any(clock.lap().values())
    assert of_steps(lap) == lap["host"] + lap["device"] and data_share(lap) == 0
