"""Placing a global batch, and making batches ahead: in order, with errors and stalls that reach the caller."""

import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pretrainx.core.errors import DataError
from pretrainx.data.loader import Prefetch, place


def test_placed_batches_hold_the_rows_that_each_device_owns():
    count = min(len(jax.devices()), 4) // 2 * 2 or 1
    mesh = jax.make_mesh(
        (max(count // 2, 1), min(count, 2)), ("data", "tensor"), (AxisType.Auto,) * 2, devices=jax.devices()[:count]
    )
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = {"tokens": np.arange(40, dtype=np.int32).reshape(8, 5), "nested": {"valid": np.arange(8) < 7}}
    placed = place(batch, {"tokens": rows, "nested": {"valid": rows}})
    tokens = placed["tokens"]
    assert tokens.shape == (8, 5) and tokens.dtype == np.int32 and tokens.sharding == rows
    assert placed["nested"]["valid"].dtype == bool
    assert np.asarray(placed["nested"]["valid"]).tolist() == batch["nested"]["valid"].tolist()
    for shard in tokens.addressable_shards:
        assert (np.asarray(shard.data) == batch["tokens"][shard.index]).all()


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_batches_come_in_order_from_any_start(depth):
    prefetch = Prefetch(lambda step: {"step": step}, start_step=41, depth=depth)
    assert [prefetch.next()["step"] for _ in range(50)] == list(range(41, 91))
    assert prefetch.step == 91
    prefetch.close()
    with pytest.raises(RuntimeError):
        prefetch.next()


def test_it_works_ahead_but_no_further_than_its_depth():
    made, third = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 3:
            third.set()
        return step

    prefetch = Prefetch(make, 0, depth=3)
    assert third.wait(5)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # three ready, one in the hand
    assert prefetch.next() == 0
    prefetch.close()


def test_an_exception_reaches_the_caller_at_its_step_and_stays():
    def make(step):
        if step == 2:
            raise DataError("shard torn", where="shard 7")
        return step

    prefetch = Prefetch(make, 0, depth=4)
    assert [prefetch.next(), prefetch.next()] == [0, 1]
    for _ in range(2):
        with pytest.raises(DataError, match="shard 7"):
            prefetch.next()
    assert prefetch.step == 2
    prefetch.close()


def test_a_stall_is_an_error_that_says_so_and_close_does_not_hang():
    gate = threading.Event()

    def make(step):
        if step == 6:
            gate.wait(20)
        return step

    prefetch = Prefetch(make, 5, timeout=0.1)
    assert prefetch.next() == 5
    with pytest.raises(DataError, match="stalled") as caught:
        prefetch.next()
    assert "step 6" in str(caught.value)
    gate.set()
    assert prefetch.next() == 6  # a stall that ends loses nothing
    prefetch.close()


def test_close_ends_the_thread_although_the_queue_is_full():
    prefetch = Prefetch(lambda step: step, 0, depth=1)
    prefetch.next()
    prefetch.close()
    assert not prefetch._thread.is_alive() and prefetch._thread.daemon
    prefetch.close()
