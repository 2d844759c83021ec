"""Where the wall time of a run goes: every second is booked to one part, so that the parts add up to the whole."""

from __future__ import annotations

import time

# The report says in words what each is. Those of the steps make the rates and MFU.
OF_STEPS = ("data", "host", "device", "log")
PARTS = (*OF_STEPS, "start", "compile", "save", "eval", "profile")


class Breakdown:
    """A clock that is read where one part of the work ends: what passed since the last reading is booked to that part.

    It asks nothing of the devices. JAX returns from a step before the devices are done with it, so their time shows where the
    host waits for them: at the next logged step, and inside the call where their queue is full. The call's time is told
    apart by the thread's own processor time, which does not pass while it waits. On CPU devices that compute inside the call,
    and where other threads keep the interpreter busy, the two cannot be told apart as well.
    """

    def __init__(self, began: float | None = None):
        """began: `time.perf_counter()` of the first second to be booked; now where it is left out."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._mark = time.perf_counter() if began is None else began
        self._processor = time.thread_time()

    def book(self, part: str) -> None:
        """The time since the last reading was that of `part`."""
        now = time.perf_counter()
        self._seconds[part] += now - self._mark
        self._mark = now

    def before_call(self) -> None:
        """From here on the thread's processor time tells the host's work from waiting."""
        self._processor = time.thread_time()

    def book_call(self) -> None:
        """The time since the last reading was that of a call which starts a step."""
        worked, passed = time.thread_time() - self._processor, time.perf_counter() - self._mark
        self._seconds["host"] += min(worked, passed)
        self._seconds["device"] += max(passed - worked, 0.0)
        self._mark += passed

    def lap(self) -> dict[str, float]:
        """Seconds of each part since the last lap, up to the last reading."""
        lap, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return lap


def of_steps(lap: dict[str, float]) -> float:
    """Seconds that the steps of a lap took, what they waited for included."""
    return sum(lap[part] for part in OF_STEPS)


def data_share(lap: dict[str, float]) -> float:
    """Which share of the steps' time was waiting for data."""
    return lap["data"] / max(of_steps(lap), 1e-9)


def rounded(lap: dict[str, float], prefix: str = "") -> dict[str, float]:
    """The parts that took any time, to the microsecond, as they are written."""
    return {f"{prefix}{part}": round(seconds, 6) for part, seconds in lap.items() if seconds >= 5e-7}
