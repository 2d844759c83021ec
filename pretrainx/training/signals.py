"""Signals set a flag; the loop looks at it between steps, evaluation batches and after a compile."""

from __future__ import annotations

import os
import signal

from pretrainx.core.errors import Interrupted, Preempted


class Signals:
    """SIGTERM and SIGUSR1 ask for a save and exit 75, SIGINT for a save and exit 130; a second SIGINT ends at once.

    They nest, and what the outer one received counts for the inner: the command listens while the program is still being
    imported, before a run exists that could.
    """

    NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")

    def __init__(self):
        self.received: str | None = None
        self._before: dict = {}

    def __enter__(self) -> Signals:
        for name in self.NAMES:
            number = getattr(signal, name)
            before = self._before[number] = signal.signal(number, self._receive)
            outer = getattr(before, "__self__", None)
            if isinstance(outer, Signals):
                self.received = self.received or outer.received
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self.received == "SIGINT":
            os._exit(Interrupted.exit_code)
        self.received = name

    def requested(self) -> bool:
        return self.received is not None

    def error(self, step: int, workdir) -> Preempted | Interrupted:
        """What the loop raises after the state was saved."""
        kind = Interrupted if self.received == "SIGINT" else Preempted
        return kind(
            f"stopped by {self.received} after step {step}; the state is saved",
            where=str(workdir),
            do="run the same command again: it resumes",
        )
