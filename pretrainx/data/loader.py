"""From the host to the devices: batches made ahead of their step, and placed by their sharding."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import jax

from pretrainx.core.errors import DataError

Batch = Any


def place(batch: Batch, shardings: Any) -> Batch:
    """A tree of host arrays (each the WHOLE global batch) as global `jax.Array`s.

    `shardings` is the same tree of `NamedSharding`s. Each process copies to its devices the parts that these hold,
    which is right also where a model axis spans processes (joining each process's own rows is not: there the rows of
    one process would silently stand beside others that claim to be equal).
    """
    return jax.tree.map(
        lambda array, sharding: jax.make_array_from_callback(array.shape, sharding, lambda index: array[index]),
        batch,
        shardings,
    )


class Prefetch:
    """Makes the batches of steps start, start + 1, ... ahead of time, in one daemon thread and in order.

    The thread holds no state that matters: what `next` returns is `make_batch(step)`, whatever `depth` is.

    Attributes:
      step: the step whose batch `next` returns next.
    """

    def __init__(self, make_batch: Callable[[int], Batch], start_step: int, depth: int = 2, timeout: float = 300.0):
        """depth: batches held ready, >= 1; timeout: seconds that `next` waits for one."""
        self._make_batch, self._timeout = make_batch, timeout
        self._ready: queue.Queue = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self.step = start_step
        self._thread = threading.Thread(target=self._run, args=(start_step,), name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> Batch:
        """The next step's batch.

        Raises what `make_batch` raised (again at each call), DataError when no batch came in time, RuntimeError after
        `close`.
        """
        if self._closed.is_set():
            raise RuntimeError("this prefetch is closed")
        if self._error is not None:
            raise self._error
        try:
            batch, error = self._ready.get(timeout=self._timeout)
        except queue.Empty:
            raise DataError(
                f"the data stalled: no batch within {self._timeout:g} seconds",
                where=f"the batch of step {self.step}",
                why="the thread that makes batches is still at it (a file system that hangs, a very slow source)",
                do="look at the storage that the data lie on, then run the same command again: it resumes",
            ) from None
        if error is not None:
            self._error = error
            raise error
        self.step += 1
        return batch

    def close(self) -> None:
        """Stops the thread and drops what it made. A thread stuck in a read is left; it ends with the process."""
        self._closed.set()
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                break
        self._thread.join(timeout=1.0)

    def _run(self, step: int) -> None:
        while not self._closed.is_set():
            try:
                made = (self._make_batch(step), None)
            except BaseException as error:  # whatever it is belongs to the thread that trains
                made = (None, error)
            # Not a plain put: after close() nobody takes from a full queue.
            while not self._closed.is_set():
                try:
                    self._ready.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if made[1] is not None:
                return
            step += 1
