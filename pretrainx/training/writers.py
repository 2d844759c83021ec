"""The record of a run, `metrics.jsonl` and `events.jsonl`, line by line; a failing disk never stops training."""

from __future__ import annotations

import collections
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrainx.core.errors import PretrainxError
from pretrainx.core.json_lines import encode, read, read_metrics
from pretrainx.training.sink import Sink

__all__ = ["Journal", "ProcessLog", "read", "read_metrics"]


class Journal:
    """Appends to the two files of a workdir. Only process 0 of a run makes one.

    A write that fails (disk full, directory gone) warns once on stderr; its lines wait in memory, at most
    `capacity` per file with the oldest dropped first, and are written before the next line that can be.
    """

    def __init__(self, workdir: str | Path, capacity: int = 10_000):
        self._metrics = _Lines(Path(workdir) / "metrics.jsonl", capacity)
        self._events = _Lines(Path(workdir) / "events.jsonl", capacity)
        self.sinks: list[Sink] = []  # other places for metrics, closed with the journal

    def metrics(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; `record` has the integer key "step"."""
        self._metrics.append(encode(record))
        for sink in self.sinks:
            sink.put(record)

    def event(self, kind: str, **facts: Any) -> None:
        """One line of events.jsonl: {"kind": kind, "time": seconds since 1970, **facts}."""
        self._events.append(encode({"kind": kind, "time": round(time.time(), 3), **facts}))

    def close(self) -> None:
        """Tries once more to write what waits, and says how many lines are lost."""
        for sink in self.sinks:
            sink.close()
        self._metrics.close()
        self._events.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ProcessLog(Journal):
    """What a process other than 0 leaves behind: warnings, and the error it ends by, in DIR/process-<i>.log.

    The numbers are the same in all processes and are written by process 0. The file is made by its first line.
    """

    def __init__(self, workdir: str | Path, process: int, capacity: int = 1000):
        self._log = _Lines(Path(workdir) / f"process-{process}.log", capacity)
        self.sinks = []

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Nothing: process 0 has the same."""

    def event(self, kind: str, **facts: Any) -> None:
        """A line where `kind` is a warning."""
        if kind == "warning":
            self._line(f"warning: {facts['text']}")

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
        self._log.close()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, PretrainxError):
            self._line(error.block())
        elif error is not None:
            self._line("".join(traceback.format_exception(error)).rstrip())
        self.close()

    def _line(self, text: str) -> None:
        self._log.append(time.strftime("%Y-%m-%dT%H:%M:%S ") + text)


class _Lines:
    """One file. Unbuffered, so that a failed write leaves nothing behind in a buffer that we do not control.

    Any thread may append: the watchdog's does while the one that trains is stuck, or has just gone on.
    """

    def __init__(self, path: Path, capacity: int):
        self.path = path
        self.waiting: collections.deque[bytes] = collections.deque(maxlen=capacity)
        self.dropped = 0
        self.warned = False
        self.torn = False  # whether the file may end inside a line
        self.descriptor: int | None = None  # opened by the first line: a start that fails leaves no empty files
        self._alone = threading.Lock()

    def append(self, line: str) -> None:
        with self._alone:
            self.dropped += len(self.waiting) == self.waiting.maxlen
            self.waiting.append(line.encode() + b"\n")
            self._attempt(self._drain)

    def close(self) -> None:
        with self._alone:
            self._close()

    def _close(self) -> None:
        if self.waiting:
            self._attempt(self._drain)
        lost = self.dropped + len(self.waiting)
        if lost:
            print(f"warning: {lost} lines could not be written to {self.path}", file=sys.stderr, flush=True)
        self.waiting.clear()
        if self.descriptor is not None:
            self._attempt(lambda: os.close(self.descriptor))
            self.descriptor = None

    def _attempt(self, action) -> None:
        try:
            action()
        except OSError as error:
            if not self.warned:
                self.warned = True
                text = f"warning: cannot write {self.path}: {error.strerror or error}; lines are kept and tried again"
                print(text, file=sys.stderr, flush=True)

    def _open(self) -> None:
        if self.descriptor is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        size = os.fstat(self.descriptor).st_size
        # A kill may have torn the last line: it is completed, so that what follows starts a line of its own.
        self.torn = size > 0 and os.pread(self.descriptor, 1, size - 1) != b"\n"

    def _drain(self) -> None:
        self._open()
        while self.waiting:
            line = b"\n" * self.torn + self.waiting[0]
            written = os.write(self.descriptor, line)
            if written < len(line):  # the disk filled up inside the line: it is written again, whole
                self.torn = self.torn or written > 0
                raise OSError(0, "the disk took only a part of a line")
            self.torn = False
            self.waiting.popleft()
