"""The record of a run, `metrics.jsonl` and `events.jsonl`, line by line; a failing disk never stops training."""

from __future__ import annotations

import collections
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrainx.core.json_lines import encode, read, read_metrics

__all__ = ["Journal", "read", "read_metrics"]


class Journal:
    """Appends to the two files of a workdir. Only process 0 of a run makes one.

    A write that fails (disk full, directory gone) warns once on stderr; its lines wait in memory, at most
    `capacity` per file with the oldest dropped first, and are written before the next line that can be.
    """

    def __init__(self, workdir: str | Path, capacity: int = 10_000):
        self._metrics = _Lines(Path(workdir) / "metrics.jsonl", capacity)
        self._events = _Lines(Path(workdir) / "events.jsonl", capacity)

    def metrics(self, record: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl; `record` has the integer key "step"."""
        self._metrics.append(encode(record))

    def event(self, kind: str, **facts: Any) -> None:
        """One line of events.jsonl: {"kind": kind, "time": seconds since 1970, **facts}."""
        self._events.append(encode({"kind": kind, "time": round(time.time(), 3), **facts}))

    def close(self) -> None:
        """Tries once more to write what waits, and says how many lines are lost."""
        self._metrics.close()
        self._events.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Lines:
    """One file. Unbuffered, so that a failed write leaves nothing behind in a buffer that we do not control."""

    def __init__(self, path: Path, capacity: int):
        self.path = path
        self.waiting: collections.deque[bytes] = collections.deque(maxlen=capacity)
        self.dropped = 0
        self.warned = False
        self.torn = False  # whether the file may end inside a line
        self.descriptor: int | None = None  # opened by the first line: a start that fails leaves no empty files

    def append(self, line: str) -> None:
        self.dropped += len(self.waiting) == self.waiting.maxlen
        self.waiting.append(line.encode() + b"\n")
        self._attempt(self._drain)

    def close(self) -> None:
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
