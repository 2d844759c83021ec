"""A trace of a few steps: what hosts and devices did, kernel by kernel, for Perfetto, TensorBoard or XProf."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from pretrainx.parallel import distributed


@dataclass(frozen=True)
class ProfileConfig:
    """Traces process 0 and its devices, into DIR/profile.

    Attributes:
      steps: how many are traced, one after the other; 0: none.
      start: steps of the run before the first of them. The first step of a process compiles: a trace of it shows little else.
    """

    steps: int = field(default=0, metadata={"min": 0})
    start: int = field(default=10, metadata={"min": 0})

    @property
    def stop(self) -> int:
        """Steps of the run before the first one that is traced no more."""
        return self.start + self.steps


class Profile:
    """Starts the trace before its first step and ends it after its last; a trace that fails never stops training.

    `settle()` waits for the steps that were dispatched, so that only those meant are in the trace; `record(kind, **facts)` is
    the journal's, `say` the screen's.
    """

    def __init__(
        self,
        config: ProfileConfig,
        workdir: Path,
        settle: Callable[[], None],
        record: Callable,
        say: Callable[[str], None],
    ):
        self.config, self.directory = config, Path(workdir) / "profile"
        self._settle, self._record, self._say = settle, record, say
        self._due = bool(config.steps) and distributed.leads()
        self._first, self._began = 0, 0.0  # of the trace that is under way
        self._under_way = False

    def tell_if_late(self, done: int) -> None:
        """A warning where the steps to trace lie behind the run that goes on, and no trace of them is there."""
        if self._due and done >= self.config.stop and not self.directory.exists():
            last = self.config.stop - 1
            self._warn(done, f"steps {self.config.start} to {last} lie behind step {done}; see config.profile.start")

    def before(self, done: int) -> bool:
        """Called before a step with the steps done so far; whether it started the trace."""
        if not self._due or not self.config.start <= done < self.config.stop:
            return False
        self._due = False  # one trace, or one try
        self._settle()
        self._first, self._began = done, time.perf_counter()
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each Python call as an event would slow the host down
        start = lambda: jax.profiler.start_trace(self.directory, profiler_options=options)
        self._under_way = self._attempt(start, done)
        return True

    def after(self, done: int) -> bool:
        """Called after a step with the steps done by now; whether it ended the trace."""
        if not self._under_way or done < self.config.stop:
            return False
        self._settle()
        return self.close(done)

    def close(self, done: int) -> bool:
        """Ends the trace that is under way; whether there was one."""
        if not self._under_way:
            return False
        self._under_way = False
        if self._attempt(jax.profiler.stop_trace, done):
            seconds, steps = round(time.perf_counter() - self._began, 3), done - self._first
            facts = {"directory": self.directory.name, "first": self._first, "steps": steps, "seconds": seconds}
            self._record("profile", step=done, **facts)
            self._say(f"profile: {steps} steps from step {self._first} on are traced in {self.directory}")
        return True

    def _attempt(self, action: Callable[[], None], done: int) -> bool:
        try:
            action()
        except (OSError, RuntimeError, ValueError) as error:  # JAX's own are RuntimeErrors
            self._warn(done, str(error).strip().split("\n")[0][:300])
            return False
        return True

    def _warn(self, done: int, why: str) -> None:
        text = f"no trace: {why}"
        self._record("warning", step=done, text=text)
        self._say(f"warning: {text}")
