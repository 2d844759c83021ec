"""What a person sees of a queue: a table that is drawn over itself on a terminal, plain lines in a file."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pretrainx.core.readable import aligned, duration, quantity
from pretrainx.scaling.manifest import Manifest, Run
from pretrainx.scaling.status import DIVERGED, DONE, FAILED, FINAL, RUNNING, STOPPED, WAITING, Standing

ORDER = (RUNNING, FAILED, DIVERGED, STOPPED, WAITING, DONE)  # which are shown where there is not room for all
EVERY = 60.0  # seconds between plain lines on how far it is


@dataclass
class Live:
    """Attributes:
    say: where plain lines go. terminal: whether stdout is one, of which the table's lines are overwritten.
    drawn: the lines on the screen now.
    """

    study: Manifest
    say_line: Callable[[str], None] = print
    terminal: bool = field(default_factory=lambda: sys.stdout.isatty())
    drawn: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)
    before: float | None = None  # the share that was done at the beginning

    def show(self, standings: Mapping[str, Standing]) -> None:
        """The table anew, where a line of it changed; in a file a summary every minute."""
        if self.before is None:
            self.before = self.done(standings)
        if self.terminal:
            size = shutil.get_terminal_size()
            lines = table(self.study.runs, standings, size.lines - 3)
            lines = [line[: size.columns - 1] for line in [*lines, self.summary(standings)]]
            if lines != self.drawn:
                sys.stdout.write(redrawn(self.drawn, lines))
                sys.stdout.flush()
                self.drawn = lines
        elif time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            self.say_line(self.summary(standings))

    def say(self, text: str) -> None:
        """A line that stays, above the table."""
        if self.terminal:
            sys.stdout.write(redrawn(self.drawn, []))
            self.drawn = []
        self.say_line(time.strftime("%H:%M:%S ") + text)

    def close(self, standings: Mapping[str, Standing]) -> None:
        """The whole table, which stays."""
        if self.terminal:
            sys.stdout.write(redrawn(self.drawn, []))
            self.drawn = []
        for line in table(self.study.runs, standings, len(self.study.runs) + 1):
            self.say_line(line)
        self.say_line(self.summary(standings))

    def done(self, standings: Mapping[str, Standing]) -> float:
        """The share of the study's work that is done, in FLOPs where the plan has them of all runs, else in steps."""
        weights = works(self.study.runs, standings)
        parts = [weight * share(standings[run.id]) for run, weight in zip(self.study.runs, weights, strict=True)]
        return math.fsum(parts) / (math.fsum(weights) or 1.0)

    def summary(self, standings: Mapping[str, Standing]) -> str:
        counts = Counter(standing.state for standing in standings.values())
        done, seconds = self.done(standings), time.monotonic() - self.began
        fresh = done - (self.before or 0.0)
        left = (1 - done) * seconds / fresh if fresh > 0 else math.nan
        words = [
            f"{counts[state]} {state}" for state in (DONE, RUNNING, STOPPED, WAITING, DIVERGED, FAILED) if counts[state]
        ]
        eta = "" if done >= 1 else f", eta {duration(left)}"
        return f"{', '.join(words)}; {100 * done:.1f}% of the work, {duration(seconds)}{eta}"


def works(runs: Sequence[Run], standings: Mapping[str, Standing]) -> list[float]:
    """What each run costs: FLOPs, or steps where those of some run are unknown."""
    flops = [run.facts.get("flops") for run in runs]
    return flops if all(flops) else [float(standings[run.id].steps) for run in runs]


def share(standing: Standing) -> float:
    """How much of a run is behind us; a run that is never started again is."""
    return 1.0 if standing.state in (*FINAL, FAILED) else standing.step / max(standing.steps, 1)


def redrawn(old: Sequence[str], new: Sequence[str]) -> str:
    """What to write where the lines `old` stand above the cursor so that `new` stand there: each line cleared as it is
    written, never the screen, so that nothing flickers."""
    up = f"\x1b[{len(old)}A\r" if old else ""
    return up + "".join(f"\x1b[K{line}\n" for line in new) + "\x1b[J" * (len(new) < len(old))


def table(runs: Sequence[Run], standings: Mapping[str, Standing], rows: int) -> list[str]:
    """A heading and a line per run in the order of the study; where there are more than `rows`, those that matter now."""
    shown = sorted(runs, key=lambda run: ORDER.index(standings[run.id].state))[: max(rows - 1, 1)]
    names = {run.id for run in shown}
    cells = [("run", "budget", "N", "D", "status", "loss")]
    cells += [row(run, standings[run.id]) for run in runs if run.id in names]
    return aligned(cells)


def row(run: Run, standing: Standing) -> tuple[str, ...]:
    facts = run.facts
    counted = (facts.get("parameters") or {}).get(facts.get("counted", "total"))
    state = f"{standing.step}/{standing.steps}" if standing.state in (RUNNING, STOPPED) else ""
    return (
        run.id,
        f"{facts['budget']:.3g}" if facts.get("budget") else "-",
        quantity(counted) if counted else "-",
        quantity(facts["tokens"]) if facts.get("tokens") else "-",
        f"{standing.state} {state}".strip(),
        f"{standing.loss:.4f}" if math.isfinite(standing.loss) else "-",
    )
