"""Second writers of metrics: whatever they do, the thread that trains neither waits nor fails."""

import struct
import threading
import time

import pytest

from pretrainx.training.sink import Sink
from pretrainx.training.tensorboard import WritersConfig, event_file, tensorboard

RECORDS = [
    {"step": step, "train/loss": 5.0 - step / 8, "batch_hash": "ab", "perf/mfu": float("nan")} for step in (1, 2, 3)
]


def points_in(path):
    """{(step, tag): value} of an event file, its frames and checksums taken apart by hand."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, found = path.read_bytes(), {}
    while data:
        (size,), (header,) = struct.unpack("<Q", data[:8]), struct.unpack("<I", data[8:12])
        body, (footer,) = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])
        assert header == masked_crc32c(data[:8]) and footer == masked_crc32c(body)
        event = Event.FromString(body)
        found |= {(event.step, point.tag): point.simple_value for point in event.summary.value}
        data = data[16 + size :]
    return found


def test_event_files(tmp_path):
    warned = []
    sink = tensorboard(WritersConfig(tensorboard=True), tmp_path, warned.append)
    for record in RECORDS:
        sink.put(record)
    sink.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = points_in(path)
    assert warned == [] and sink.dropped == 0
    assert {step: found[step, "train/loss"] for step in (1, 2, 3)} == {1: 4.875, 2: 4.75, 3: 4.625}
    assert {tag for _, tag in found} == {"train/loss", "perf/mfu"}


def test_order_and_batches():
    """Records come in order, each once; many that came while the writer was busy come together."""
    calls, busy = [], threading.Event()

    def write(records):
        calls.append([record["step"] for record in records])
        busy.wait(5)

    sink = Sink("test", lambda: write, pytest.fail)
    sink.put({"step": 0})
    while not calls:
        time.sleep(0.001)
    for step in range(1, 50):
        sink.put({"step": step})
    busy.set()
    sink.close()
    assert calls == [[0], list(range(1, 50))]


def raises():
    raise OSError(28, "no room\nand more")


def raises_later():
    calls = []

    def write(records):
        calls.append(records)
        if len(calls) > 1:
            raise ValueError("the second write")

    return write


def blocks():
    return lambda records: threading.Event().wait()


def blocks_opening():
    threading.Event().wait()


@pytest.mark.parametrize(
    "open_writer, why",
    [
        (raises, "no room"),
        (raises_later, "the second write"),
        (blocks, "no answer within 0.2 seconds"),
        (blocks_opening, "no answer within 0.2 seconds"),
    ],
)
def test_a_writer_that_fails_or_blocks(open_writer, why):
    """One warning, on the caller's thread; and no `put` takes the time of a step."""
    warned, longest = [], 0.0
    sink = Sink("test", open_writer, lambda text: warned.append((text, threading.current_thread())), timeout=0.2)
    for step in range(100):
        started = time.perf_counter()
        sink.put({"step": step})
        longest = max(longest, time.perf_counter() - started)
        time.sleep(0.005)
    started = time.perf_counter()
    sink.close()
    assert time.perf_counter() - started < 1.0
    ((text, thread),) = warned
    assert why in text and "switched off" in text and "\n" not in text
    assert thread is threading.current_thread()
    assert longest < 0.05 and sink.disabled


def test_a_full_queue_drops_the_oldest():
    written, warned, go = [], [], threading.Event()

    def write(records):
        go.wait(5)
        written.extend(record["step"] for record in records)

    sink = Sink("test", lambda: write, warned.append, capacity=10)
    sink.put({"step": -1})
    while sink._waiting:
        time.sleep(0.001)
    for step in range(100):
        sink.put({"step": step})
    go.set()
    sink.close()
    assert written == [-1, *range(90, 100)]
    assert sink.dropped == 90 and warned == ["test: 90 records were dropped, it was too slow; metrics.jsonl has them"]


def test_an_unwritable_directory(tmp_path):
    (tmp_path / "tensorboard").touch()
    warned = []
    sink = tensorboard(WritersConfig(tensorboard=True), tmp_path, warned.append)
    sink.close()
    assert len(warned) == 1 and "tensorboard is switched off" in warned[0]


def test_a_later_file_does_not_replace_an_earlier_one(tmp_path):
    event_file(tmp_path)(RECORDS[:1])
    (path,) = tmp_path.iterdir()
    assert str(path).endswith(tuple("0123456789")) and points_in(path)
