"""A thread that notices when a run is stuck: first the stacks of all threads, then exit 7.

A blocked collective or read cannot be unwound by an exception, so the process is ended and a launcher starts it again.
Dispatch is asynchronous: a device that is stuck shows at the next wait for it, at a logged step at the latest. The steps that
were dispatched are waited for one by one, so that the limit is that of one step however many are logged together.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pretrainx.core.errors import HangError


@dataclass(frozen=True)
class WatchdogConfig:
    """Seconds that a phase of the run may last before the process ends with exit 7; 0 lets it last.

    Attributes:
      compile: the first step.
      data: waiting for a batch (what makes the batches reports a source that stalls after 300 seconds by itself).
      step: a later step, or the fetching of its metrics.
      eval, save: a whole evaluation, a save as far as training waits for it.
      restore: reading a checkpoint, or making a new state (with the parameters of init_from).
      stacks: the share of the limit after which the stacks of all threads are written.
    """

    compile: float = field(default=7200.0, metadata={"min": 0})
    data: float = field(default=600.0, metadata={"min": 0})
    step: float = field(default=1800.0, metadata={"min": 0})
    eval: float = field(default=7200.0, metadata={"min": 0})
    save: float = field(default=3600.0, metadata={"min": 0})
    restore: float = field(default=3600.0, metadata={"min": 0})
    stacks: float = field(default=0.5, metadata={"above": 0, "max": 1})

    def limit(self, phase: str) -> float:
        return getattr(self, phase)


class Watchdog:
    """Watches the phase that the run is in. `beat` begins a phase, or the same one anew; nothing is watched before.

    `tell(kind, **facts)` records an event; it may block for ever, as the disk may be what is stuck.
    """

    def __init__(self, config: WatchdogConfig, workdir: Path, tell: Callable = lambda kind, **facts: None):
        self.config, self.workdir, self.tell = config, Path(workdir), tell
        self._phase: tuple[str, float] | None = None
        self._closed = threading.Event()
        limits = [config.limit(name) for name in ("compile", "data", "step", "eval", "save", "restore")]
        shortest = min(filter(None, limits), default=0)
        if shortest:
            self._pause = min(1.0, shortest * config.stacks / 4)
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, phase: str) -> None:
        self._phase = (phase, time.monotonic())

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase inside another one, whose clock starts anew afterwards."""
        before = self._phase
        self.beat(phase)
        try:
            yield
        finally:
            self._phase = before and (before[0], time.monotonic())

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()

    def _watch(self) -> None:
        shown = None
        while not self._closed.wait(self._pause):
            phase = self._phase
            limit = self.config.limit(phase[0]) if phase else 0
            if not limit:
                continue
            lasted = time.monotonic() - phase[1]
            if lasted > limit * self.config.stacks and shown is not phase:
                shown = phase
                self._show(phase[0], lasted)
            if lasted > limit and self._phase is phase and not self._closed.is_set():
                self._end(phase[0], lasted, limit)

    def _show(self, phase: str, lasted: float) -> None:
        text = f"the phase {phase!r} has lasted {lasted:.1f} seconds: stacks of all threads follow"
        _within(2.0, lambda: (print(f"warning: {text}", file=sys.stderr, flush=True), faulthandler.dump_traceback()))
        path = self.workdir / f"stacks-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"

        def write() -> None:
            with path.open("w") as file:
                file.write(f"{text}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)

        _within(2.0, write)
        _within(2.0, lambda: self.tell("hang", phase=phase, seconds=round(lasted, 3), stacks=path.name))

    def _end(self, phase: str, lasted: float, limit: float) -> None:
        error = HangError(
            f"the run hangs: {phase} has lasted {lasted:.0f} seconds",
            where=str(self.workdir),
            why=f"config.watchdog.{phase} is {limit:g} seconds; the stacks of all threads are in stacks-*.txt",
            do="run the same command again: it resumes from the last checkpoint; "
            f"where it only was slow, --config.watchdog.{phase}=SECONDS (0: no limit)",
        )
        _within(2.0, lambda: print(error.block(), file=sys.stderr, flush=True))
        os._exit(error.exit_code)


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Runs an action that may block, such as a write to a lost disk, for so many seconds at most."""

    def attempt() -> None:
        with contextlib.suppress(Exception):
            action()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
