"""The journal: every line is valid JSON at once, a kill and a full disk cost nothing but what they must."""

import errno
import json
import math
import os
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.training import writers
from pretrainx.training.writers import Journal, read, read_metrics


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    journal = Journal(tmp_path / "new" / "run")
    for step in range(3):
        journal.metrics({"step": step, "train/loss": 1.5})
        assert len(read(tmp_path / "new/run/metrics.jsonl")) == step + 1
    journal.event("saved", step=2, seconds=0.5)
    (event,) = read(tmp_path / "new/run/events.jsonl")
    assert event["kind"] == "saved" and event["step"] == 2 and event["time"] > 1e9
    journal.close()


def test_scalars_of_numpy_and_jax_and_what_is_not_finite(tmp_path):
    with Journal(tmp_path) as journal:
        journal.metrics(
            {
                "step": np.int64(1),
                "a": np.float32(0.5),
                "b": jnp.float32(2.0),
                "c": jnp.bfloat16(1.5),
                "d": jnp.nan,
                "e": np.inf,
                "f": -jnp.inf * jnp.ones(()),
                "g": np.array([1.0, np.nan]),
                "h": None,
                "i": tmp_path,
                "j": np.bool_(True),
                "k": {"x": (1, jnp.int32(2))},
            }
        )
    text = (tmp_path / "metrics.jsonl").read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    expected = {"step": 1, "a": 0.5, "b": 2.0, "c": 1.5, "d": "nan", "e": "inf", "f": "-inf", "g": [1.0, "nan"]}
    assert record == {**expected, "h": None, "i": str(tmp_path), "j": True, "k": {"x": [1, 2]}}
    (number,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(number["d"]) and number["e"] == math.inf and number["f"] == -math.inf


def test_lines_of_two_threads(tmp_path, monkeypatch):
    """The watchdog's thread records a hang while the thread that trains may go on: each line is there once, whole."""
    write = os.write

    def slowly(descriptor, line):
        time.sleep(0)  # the other thread's turn
        return write(descriptor, line)

    monkeypatch.setattr(writers.os, "write", slowly)
    with Journal(tmp_path) as journal:
        tell = lambda thread: [journal.event("hang", thread=thread, number=number) for number in range(300)]
        threads = [threading.Thread(target=tell, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [(event["thread"], event["number"]) for event in read(tmp_path / "events.jsonl")]
    assert sorted(found) == [(thread, number) for thread in range(3) for number in range(300)]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_torn_by_a_kill_spoils_nothing_after_it(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    with Journal(tmp_path) as journal:
        for step in range(3):
            journal.metrics({"step": step, "train/loss": 1.0 + step})
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [record["step"] for record in read(path)]
    assert kept == ([0, 1, 2] if cut == 1 else [0, 1])
    with Journal(tmp_path) as journal:
        journal.metrics({"step": 3, "train/loss": 4.0})
    assert [record["step"] for record in read(path)] == [*kept, 3]


def test_the_last_record_of_a_step_counts_and_records_of_one_step_are_united(tmp_path):
    with Journal(tmp_path) as journal:
        journal.metrics({"step": 20, "train/loss": 9.0})
        journal.metrics({"step": 30, "train/loss": 8.0})
        journal.metrics({"step": 20, "train/loss": 7.0})
        journal.metrics({"step": 20, "eval/held_out/loss": 6.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 20, "train/loss": 7.0, "eval/held_out/loss": 6.0},
        {"step": 30, "train/loss": 8.0},
    ]


def test_a_file_that_is_not_there_has_no_records(tmp_path):
    assert read(tmp_path / "metrics.jsonl") == [] == read_metrics(tmp_path / "metrics.jsonl")


class Disk:
    """os.write with a disk that can be full: `room` is the number of bytes that it still takes."""

    def __init__(self, monkeypatch):
        self.room, self.write = None, os.write
        monkeypatch.setattr(writers.os, "write", self)

    def __call__(self, descriptor, data):
        if self.room is None:
            return self.write(descriptor, data)
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.write(descriptor, data[: self.room])
        self.room -= count
        return count


@pytest.mark.parametrize("room", [0, 1, 10])
def test_a_full_disk_warns_once_and_loses_no_line(tmp_path, monkeypatch, capsys, room):
    disk = Disk(monkeypatch)
    journal = Journal(tmp_path)
    journal.metrics({"step": 0})
    disk.room = room
    for step in range(1, 4):
        journal.metrics({"step": step, "train/loss": 1.0})
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [0]
    disk.room = None
    journal.metrics({"step": 4})
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    journal.close()
    text = capsys.readouterr().err
    assert text.count("warning: ") == 1 and "metrics.jsonl" in text


def test_the_buffer_is_bounded_and_says_what_is_lost(tmp_path, monkeypatch, capsys):
    disk = Disk(monkeypatch)
    journal = Journal(tmp_path, capacity=3)
    disk.room = 0
    for step in range(5):
        journal.metrics({"step": step})
    disk.room = None
    journal.close()
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [2, 3, 4]
    assert "2 lines could not be written" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_made_stops_nothing(tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    journal = Journal(tmp_path / "taken" / "run")
    journal.metrics({"step": 1})
    (tmp_path / "taken").unlink()
    journal.metrics({"step": 2})
    assert [record["step"] for record in read(tmp_path / "taken/run/metrics.jsonl")] == [1, 2]
    journal.close()
    assert "cannot write" in capsys.readouterr().err
