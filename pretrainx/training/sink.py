"""A second place for metrics that can never stop training: behind a bounded queue, in a thread of its own.

`metrics.jsonl` is the record of truth. A tracker that fails, blocks or lags loses its own points and nothing else.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any


class Sink:
    """Hands records to a writer in a daemon thread; `put` neither waits nor raises.

    `open_writer()` is called in the thread and gives `write(records)`, which takes a list of records and makes them durable.
    A call that raises, or that lasts longer than `timeout` seconds, disables the sink with one `warn(text)`, told by
    the thread that calls `put` or `close`. Of records that the writer is too slow for the oldest are dropped.

    Attributes:
      dropped: records that were not written, as far as it is known.
    """

    def __init__(
        self,
        name: str,
        open_writer: Callable[[], Callable[[list[dict[str, Any]]], None]],
        warn: Callable[[str], None],
        capacity: int = 1000,
        timeout: float = 10.0,
    ):
        self.name, self.dropped, self.disabled = name, 0, False
        self._open, self._warn, self._timeout = open_writer, warn, timeout
        self._waiting: collections.deque = collections.deque(maxlen=capacity)
        self._given, self._closing = threading.Event(), threading.Event()
        self._busy_since: float | None = None
        self._trouble = ""  # of the thread; what is told is told by the caller's thread, which owns the journal
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, record: Mapping[str, Any]) -> None:
        """Queues a record; notices a writer that failed or is stuck."""
        began = self._busy_since
        if self._trouble:
            self._disable(self._trouble)
        elif began is not None and time.monotonic() - began > self._timeout:
            self._disable(f"no answer within {self._timeout:g} seconds")
        if self.disabled:
            self.dropped += 1
            return
        self.dropped += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(dict(record))
        self._given.set()

    def close(self) -> None:
        """Waits for what is queued, at most `timeout` seconds, and then leaves the thread behind."""
        self._closing.set()
        self._given.set()
        if not self.disabled:
            self._thread.join(self._timeout)
        if self._trouble:
            self._disable(self._trouble)
        elif self._thread.is_alive():
            self._disable(f"not done {self._timeout:g} seconds after the run")
        if self.dropped and not self.disabled:
            self._warn(f"{self.name}: {self.dropped} records were dropped, it was too slow; metrics.jsonl has them")

    def _disable(self, why: str) -> None:
        if not self.disabled:
            self.disabled = True
            self.dropped += len(self._waiting)
            self._warn(f"{self.name} is switched off: {why}; training goes on, and metrics.jsonl is complete")

    def _run(self) -> None:
        try:
            self._busy_since = time.monotonic()
            write = self._open()
            self._busy_since = None
            while True:
                self._given.wait()
                self._given.clear()
                ending = self._closing.is_set()  # before the queue is read: nothing is put after it
                records = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if records and not self.disabled:
                    self._busy_since = time.monotonic()
                    write(records)
                    self._busy_since = None
                if ending or self.disabled:
                    return
        except Exception as error:  # whatever a tracker's library raises stays in this thread
            self._trouble = str(error).strip().split("\n")[0][:200] or repr(error)
