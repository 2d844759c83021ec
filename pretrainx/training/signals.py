"""Signals set a flag; the loop looks at it between steps, evaluation batches and after a compile."""

from __future__ import annotations

import os
import signal

from pretrainx.core.errors import Interrupted, Preempted
from pretrainx.parallel import distributed


class Signals:
    """SIGTERM and SIGUSR1 ask for a save and exit 75, SIGINT for a save and exit 130; a second SIGINT ends at once.

    They nest, and what the outer one received counts for the inner: the command listens while the program is still being
    imported, before a run exists that could.

    Where many processes make the run, a signal to one of them stops all, at the same call of `requested`.
    """

    NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")

    def __init__(self):
        self.received: str | None = None
        self.interrupts = 0
        self._before: dict = {}
        self._calls, self._asked, self._agreed = 0, False, False

    def __enter__(self) -> Signals:
        for name in self.NAMES:
            number = getattr(signal, name)
            outer = getattr(signal.getsignal(number), "__self__", None)
            if isinstance(outer, Signals):
                self.received = self.received or outer.received
                self.interrupts = outer.interrupts
            if name == "SIGTERM" and distributed.count() > 1:
                continue  # JAX listens for it, to tell the other processes
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        name = signal.Signals(number).name
        self.interrupts += name == "SIGINT"
        if self.interrupts > 1:
            os._exit(Interrupted.exit_code)
        self.received = name

    def requested(self) -> bool:
        """Whether to stop now. Of many processes each must call it equally often: all are told so at the same call."""
        if distributed.count() == 1:
            return self.received is not None
        if self.received and not self._asked and not self._agreed:
            distributed.ask_to_stop(self.received)
            self._asked = True
        self._calls += 1
        if not self._agreed and distributed.reached_stop(self._calls):
            self._agreed, self.received = True, distributed.stopped_by()
        return self._agreed

    def error(self, step: int, workdir) -> Preempted | Interrupted:
        """What the loop raises after the state was saved."""
        kind = Interrupted if self.received == "SIGINT" else Preempted
        return kind(
            f"stopped by {self.received} after step {step}; the state is saved",
            where=str(workdir),
            do="run the same command again: it resumes",
        )
