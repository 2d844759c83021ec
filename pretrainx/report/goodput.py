"""Where the wall time of a run went, over all its starts, and which share of it made steps that count."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREFIX = "perf/seconds/"  # of metrics: seconds since the last logged step
# In the order of the picture; the first two are what goodput counts.
PARTS = {
    "device": "steps: waiting for the devices",
    "host": "steps: the processor's work to start them",
    "data": "waiting for the next batch",
    "log": "reading metrics and writing them",
    "eval": "evaluating",
    "save": "saving, as far as training waits for it",
    "compile": "compiling the train step",
    "start": "from the command to the first step: data, a new or restored state, the first batch",
    "profile": "starting and writing a trace",
    "lost": "steps that a kill took back: trained again after the checkpoint before it",
    "other": "the end of the process, and what a kill left unbooked",
}
GOOD = ("device", "host")
TRAINED_AGAIN = (*GOOD, "data", "log")  # what a step costs a second time
DEFINITION = (
    "Goodput is the share of the time in which processes of the run were up that went into steps which count (the host's and "
    "the devices' part of them): not compiling, restoring, waiting for data, evaluating or saving, and no step that was lost "
    "to a kill and trained again. Time between two starts is not in it, nor what a killed process did after its last line."
)


@dataclass(frozen=True)
class Attempt:
    """One start of a run, up to its last line.

    Attributes:
      began, ended: seconds since 1970.
      first, last: steps of the run before it, and at its last line.
      seconds: of each part that took any; they add up to ended - began.
    """

    began: float
    ended: float
    first: int
    last: int
    seconds: dict[str, float]


def attempts(lines: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """The starts of a run, from every line of metrics.jsonl and events.jsonl in file order; none where no time is booked."""
    places = [place for place, event in enumerate(events) if event.get("kind") == "start" and "seconds" in event]
    began = [events[place]["time"] - events[place]["seconds"] for place in places]
    found = []
    for index, (place, following) in enumerate(itertools.pairwise([*places, len(events)])):
        until = began[index + 1] if index + 1 < len(began) else float("inf")
        own = [event for event in events[place:following] if event["time"] < until]
        booked = [(event["step"], event["time"], event) for event in own if event["kind"] == "seconds"]
        for line in lines:
            if any(name.startswith(PREFIX) for name in line) and events[place]["time"] <= line["time"] < until:
                parts = {name.removeprefix(PREFIX): line[name] for name in line if name.startswith(PREFIX)}
                booked.append((line["step"], line["time"], parts))
        kept = min((events[later]["step"] for later in places[index + 1 :]), default=float("inf"))
        first, ended = events[place]["step"], max(event["time"] for event in own)
        seconds, step = dict.fromkeys(PARTS, 0.0), first
        for last, moment, parts in sorted(booked, key=lambda each: each[:2]):
            again = (last - min(max(kept, step), last)) / max(last - step, 1)
            for part in PARTS.keys() & parts.keys():
                lost = again * parts[part] if part in TRAINED_AGAIN else 0.0
                seconds[part] += parts[part] - lost
                seconds["lost"] += lost
            step, ended = last, max(ended, moment)
        seconds["other"] = max(ended - began[index] - sum(seconds.values()), 0.0)
        found.append(Attempt(began[index], ended, first, step, seconds))
    return found


def total(found: Sequence[Attempt]) -> dict[str, float]:
    """Seconds of each part over all starts."""
    return {part: sum(attempt.seconds[part] for attempt in found) for part in PARTS}


def goodput(found: Sequence[Attempt]) -> float | None:
    """See DEFINITION; None where no time passed."""
    seconds = total(found)
    whole = sum(seconds.values())
    return sum(seconds[part] for part in GOOD) / whole if whole else None


def between(found: Sequence[Attempt]) -> float:
    """Seconds in which no process of the run was up, as far as its files tell."""
    return sum(max(later.began - earlier.ended, 0.0) for earlier, later in itertools.pairwise(found))
