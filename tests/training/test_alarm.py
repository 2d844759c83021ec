"""The collapse alarm: when it begins, how often it is told, and that it can end a run."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from pretrainx.core.errors import CollapseError
from pretrainx.core.records import Mean
from pretrainx.objectives.collapse import RANK_ALARM, STD_ALARM
from pretrainx.training.alarm import Alarm, AlarmConfig
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.loop import Loop, LoopConfig
from pretrainx.training.signals import Signals
from pretrainx.training.watchdog import Watchdog, WatchdogConfig
from pretrainx.training.writers import Journal, read, read_metrics
from toys.line import Line
from toys.small import ROWS, Small, batch

STD, RANK = "train/metric/embedding_std", "train/metric/embedding_rank"
CONFIG = AlarmConfig(collapse_std=0.1, collapse_rank=0.05, patience=2, after=0)


def heard(values, config=CONFIG, metric=STD, every=1):
    """The steps at which the alarm was given, of those that were logged."""
    alarm = Alarm(config)
    steps = range(every, every * len(values) + 1, every)
    record = lambda step, value: {"step": step, metric: value, "train/loss": 0.0}
    return [step for step, value in zip(steps, values, strict=True) if alarm(record(step, value))]


def test_patience_is_in_steps():
    """However often is logged; but one figure alone is none."""
    low = lambda every: heard([1, *[0] * 60], AlarmConfig(after=0), every=every)
    assert [low(every) for every in (1, 5, 10, 20, 100)] == [[22], [30], [40], [60], [300]]


def test_after_so_many_in_a_row():
    assert heard([1, 0.09, 0.09, 0.09, 0.09, 0.09]) == [4]
    assert heard([0.09, 0.09, 1, 0.09, 0.09, 1]) == []
    assert heard([0.1] * 9) == []  # the threshold itself is none


def test_told_again_only_after_it_was_over():
    assert heard([0] * 5 + [1] + [0] * 5) == [3, 9]


def test_the_first_steps_are_not_judged():
    assert heard([0] * 9, AlarmConfig(patience=1, after=4)) == [6]


def test_either_metric_by_itself():
    assert heard([0.06] * 5, metric=RANK) == [] and heard([0.04] * 5, metric=RANK) == [3]
    assert heard([0] * 9, metric="train/metric/uniformity") == []
    assert heard([0] * 9, AlarmConfig(collapse_std=0, after=0)) == []
    alarm = Alarm(AlarmConfig(patience=1, after=0))
    record = {STD: 0.01, RANK: 0.02, "train/metric/views/embedding_std": 0.03}
    assert alarm({"step": 1, **record}) == []
    found = alarm({"step": 2, **record})
    assert [(each["metric"], each["value"]) for each in found] == [
        (STD, 0.01),
        (RANK, 0.02),
        ("train/metric/views/embedding_std", 0.03),
    ]
    assert [each["threshold"] for each in found] == [STD_ALARM, RANK_ALARM, STD_ALARM]


def test_values_that_are_not_finite_are_none():
    assert heard([float("nan")] * 5) == [] and heard([0, 0, float("nan"), 0, 0]) == []


@dataclass(frozen=True)
class Fading(Line):
    """Reports the first row's number as the spread of its embeddings."""

    def encode(self, params, extras, observation, keys, step, *, train):
        outcome = super().encode(params, extras, observation, keys, step, train=train)
        return outcome.replace(metrics={"embedding_std": Mean(observation.inputs["x"][0, 0], np.float64(1))})


def trained(workdir, spreads, config):
    """What a loop says whose steps report these spreads; with the error that ended it, if any."""
    run, said, given = Small(Fading()), [], iter(spreads)
    error = None
    with Journal(workdir) as journal, Watchdog(WatchdogConfig(), workdir) as watchdog, Signals() as signals:
        checkpoints = Checkpoints(workdir / "checkpoints", 1)
        loop = Loop(
            config=LoopConfig(len(spreads), ROWS, log_every=1),
            step=run.train,
            next_batch=lambda: batch(x=np.full((ROWS, 2), next(given))),
            record_hash=str,
            evaluate=lambda state, stop: {},
            checkpoints=checkpoints,
            save_every=100,
            journal=journal,
            workdir=workdir,
            facts=dict,
            units_per_step=ROWS,
            unit="rows",
            flops_per_step=None,
            peak=None,
            patience=5,
            wall=lambda: 0.0,
            watchdog=watchdog,
            say=said.append,
            alarm=Alarm(config),
        )
        try:
            loop.run(run.state, signals)
        except CollapseError as caught:
            error = caught
        finally:
            checkpoints.close()
    events = [event for event in read(workdir / "events.jsonl") if event["kind"] == "collapse"]
    return said, events, len(read_metrics(workdir / "metrics.jsonl")), error


@pytest.mark.parametrize("stop", [False, True])
def test_a_run_tells_of_a_collapse_and_may_end(tmp_path, stop):
    """An event with all the facts and a line on the screen; ended by an error of its own only on request, after the line of
    metrics is written."""
    with jax.enable_x64(True):
        config = AlarmConfig(collapse_std=0.5, patience=1, after=0, stop=stop)
        said, events, logged, error = trained(tmp_path, [1.0, 0.25, 0.125, 0.25, 0.25], config)
    (event,) = events
    assert {name: event[name] for name in ("step", "metric", "value", "threshold")} == {
        "step": 3,
        "metric": STD,
        "value": 0.125,
        "threshold": 0.5,
    }
    assert [line for line in said if line.startswith("collapse: ") and STD in line and "0.125" in line]
    assert logged == (3 if stop else 5)
    if stop:
        assert error.exit_code == 8 and "0.125" in error.why and "step 3" in error.where and "config.alarm" in error.do
    else:
        assert error is None
