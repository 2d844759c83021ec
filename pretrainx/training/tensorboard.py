"""TensorBoard event files, written by tensorboardX: no TensorFlow is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrainx.training.sink import Sink


@dataclass(frozen=True)
class WritersConfig:
    """Where metrics go beside metrics.jsonl.

    None of them is on by default: metrics.jsonl has every number, and each writer is one file more for every start of a run.

    Attributes:
      tensorboard: also write event files to DIR/tensorboard.
      queue: records that wait for a slow writer before the oldest is dropped.
      timeout: seconds after which a writer that does not answer is switched off.
    """

    tensorboard: bool = False
    queue: int = field(default=1000, metadata={"min": 1})
    timeout: float = field(default=10.0, metadata={"above": 0})


def tensorboard(config: WritersConfig, workdir: Path, warn: Callable[[str], None]) -> Sink:
    """A sink for records as in metrics.jsonl: each number becomes a point at the record's "step"."""
    return Sink("tensorboard", lambda: event_file(Path(workdir) / "tensorboard"), warn, config.queue, config.timeout)


def event_file(directory: Path) -> Callable[[list[dict[str, Any]]], None]:
    """Opens a new event file in `directory`; gives the function that appends records to it and flushes."""
    # Not SummaryWriter: it has a queue of its own, which blocks when full, and a hook that waits as the process ends.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    directory.mkdir(parents=True, exist_ok=True)
    # With the process's number: a run started again within a second would take the file of the one before it.
    writer = EventsWriter(str(directory / "events"), f".{os.getpid()}")

    def write(records: list[dict[str, Any]]) -> None:
        for record in records:
            points = [
                Summary.Value(tag=name, simple_value=value)
                for name, value in record.items()
                if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool)
            ]
            writer.write_event(Event(wall_time=time.time(), step=record["step"], summary=Summary(value=points)))
        writer.flush()

    return write
