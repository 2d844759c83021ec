"""TensorBoard in a real run: whatever its writer does, the run ends with 0 and metrics.jsonl is complete."""

import threading
import time

import pytest

from pretrainx.core.json_lines import read, read_metrics
from pretrainx.runs.train import train
from pretrainx.training import tensorboard
from pretrainx.training.sink import Sink

pytestmark = pytest.mark.xdist_group("operate")


def raises(directory):
    def write(records):
        raise OSError(28, "No space left on device")

    return write


def blocks(directory):
    return lambda records: threading.Event().wait()


@pytest.mark.parametrize("fault", [None, raises, blocks, pytest.param("a file in the way", marks=pytest.mark.slow)])
def test_a_run_with_tensorboard(fault, make_values, tmp_path, monkeypatch, request):
    """The time that `put` takes is measured and printed: it is all that a step can be made longer by."""
    run, seconds = tmp_path / "run", []
    if callable(fault):
        monkeypatch.setattr(tensorboard, "event_file", fault)
    elif fault:
        run.mkdir()
        (run / "tensorboard").touch()
    put = Sink.put

    def timed(self, record):
        started = time.perf_counter()
        put(self, record)
        seconds.append(time.perf_counter() - started)

    monkeypatch.setattr(Sink, "put", timed)
    said = []
    values = make_values(writers={"tensorboard": True, "timeout": 0.3 if fault is blocks else 20.0})
    assert train(values, run, say=said.append) == 0
    metrics = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in metrics] == list(range(1, 11)) and "eval/held_out/loss" in metrics[-1]
    warnings = [event["text"] for event in read(run / "events.jsonl") if event["kind"] == "warning"]
    assert len(seconds) == 11
    print(f"\n{fault}: {1000 * sum(seconds) / 10:.3f} ms per step added, {1000 * max(seconds):.3f} at most")
    assert max(seconds) < 0.1
    if fault:
        assert len(warnings) == 1 and "tensorboard is switched off" in warnings[0]
        assert sum("tensorboard is switched off" in line for line in said) == 1
    else:
        from training.test_sink import points_in

        (path,) = (run / "tensorboard").iterdir()
        found = points_in(path)
        assert warnings == []
        for record in metrics:
            assert found[record["step"], "train/loss"] == pytest.approx(record["train/loss"], rel=1e-6)
        assert found[10, "eval/held_out/loss"] == pytest.approx(metrics[-1]["eval/held_out/loss"], rel=1e-6)
