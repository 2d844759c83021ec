"""One run, killed again and again at random moments, held against the same run left alone."""

from __future__ import annotations

import collections
import dataclasses
import random
import signal
import time
from pathlib import Path

from chaos.runs import Run, differing, write_recipe

PLACES = ("start-up or compile", "step", "eval")


@dataclasses.dataclass
class Card:
    """What a campaign found.

    Attributes:
      places: where each kill fell, judged by what the dead process left.
      inside_save: kills that tore a checkpoint. Saves run in the background, so a step or an evaluation was under way too.
    """

    seed: int
    kills: int = 0
    places: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    inside_save: int = 0
    failed_restarts: int = 0
    steps_again: int = 0
    compared: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)
    differing_leaves: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    log: list[str] = dataclasses.field(default_factory=list)

    def table(self) -> str:
        where = ", ".join(f"{place} {count}" for place, count in self.places.items())
        rows = (
            ("seed", self.seed),
            ("kills", self.kills),
            ("where they fell", where),
            ("inside a save", self.inside_save),
            ("failed restarts", self.failed_restarts),
            ("steps run again", self.steps_again),
            ("values compared", self.compared),
            ("differing losses", len(self.differing)),
            ("differing leaves of the last state", len(self.differing_leaves)),
            ("seconds", round(self.seconds, 1)),
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def unbroken(directory: Path, compiled: Path, steps: int, every: int, eval_every: int) -> Run:
    """The reference: the same command, never disturbed."""
    run = Run(write_recipe(directory, steps, every, eval_every), directory / "unbroken", compiled)
    run.finish()
    return run


def campaign(reference: Run, kills: int, saves: int, seed: int, steps: int, eval_every: int) -> Card:
    """Kills the run `kills` times, `saves` of them aimed inside a save and the others in turn elsewhere, then lets it finish.

    The moments are drawn from `seed`; where a kill really fell is told by what the dead process left behind.
    """
    card, rng, began = Card(seed), random.Random(seed), time.monotonic()
    run = dataclasses.replace(reference, workdir=reference.workdir.parent / "broken")
    others = ["step", "start", "eval", "step"]
    plan = ["save"] * saves + [others[i % len(others)] for i in range(kills - saves)]
    rng.shuffle(plan)
    start_up, pace = _tempo(reference, steps)
    while card.kills < kills:
        aim = plan[card.kills]
        attempt = run.start()
        if aim == "save":
            # Half at the very beginning of a save, half somewhere in it or just after.
            _await_save(attempt, skip=rng.randint(0, 1))
            time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.1))))
        elif aim == "eval":
            last = attempt.last_step()
            attempt.until(lambda last=last: last() > 0 and last() % eval_every == 0)
        elif aim == "start":
            time.sleep(rng.uniform(0, start_up))
        else:
            # The share leaves steps for the kills to come, however fast the machine is.
            share = (steps - max(run.durable(), default=0)) / (kills - card.kills + 1)
            _await_moment(attempt, rng.uniform(0, share * pace), share)
        attempt.process.send_signal(signal.SIGKILL)
        code = attempt.wait()
        if code != -signal.SIGKILL:
            card.log.append(f"{aim}: the process had ended by itself with {code}")
            if code == 0:
                break
            card.failed_restarts += 1
            card.log.append(attempt.stderr()[-1000:])
            if card.failed_restarts > 3:
                break
            continue
        card.kills += 1
        place, torn = _place(attempt, eval_every), attempt.saving()
        card.places[place] += 1
        card.inside_save += torn
        newest = f"step {attempt.logged()[-1]}" if attempt.logged() else "no step"
        card.log.append(f"kill {card.kills} aimed at {aim}: {place}, {newest} logged" + ", a save torn" * torn)
    while run.durable()[-1:] != [steps] or not (run.workdir / "report.html").is_file():
        attempt = run.start()
        if attempt.wait() != 0:
            card.failed_restarts += 1
            card.log.append(attempt.stderr()[-1000:])
            if card.failed_restarts > 3:
                break
    card.compared, card.differing = differing(reference, run)
    times = collections.Counter(line["step"] for line in run.lines() if "train/loss" in line)
    card.steps_again = sum(times.values()) - len(times)
    then, now = reference.checksums(steps), run.checksums(steps)
    card.differing_leaves = sorted(path for path in then.keys() | now.keys() if then.get(path) != now.get(path))
    card.seconds = time.monotonic() - began
    return card


def _tempo(reference: Run, steps: int) -> tuple[float, float]:
    """(seconds from process start to the first step, with what was compiled at hand; seconds per step) of the reference."""
    at = {event["kind"]: event["time"] for event in reference.events()}
    first = next(event["seconds"] for event in reference.events() if event["kind"] == "first_step")
    # Imports come before the clock of the run: about two seconds.
    return min(first, 2.0) + 2.0, (at["done"] - at["first_step"]) / steps


def _await_save(attempt, skip: int) -> None:
    """Returns while a save is being written, after letting `skip` saves pass."""
    for _ in range(skip):
        attempt.until(attempt.saving)
        attempt.until(lambda: not attempt.saving())
    attempt.until(attempt.saving)


def _await_moment(attempt, seconds: float, steps: float) -> None:
    """Returns so many seconds, or at most so many steps, after the first logged step of the process."""
    last = attempt.last_step()
    attempt.until(lambda: last() > 0)
    first, moment = last(), time.monotonic() + seconds
    attempt.until(lambda: time.monotonic() > moment or last() >= first + steps)


def _place(attempt, eval_every: int) -> str:
    """Where the main thread was."""
    if not any(event["kind"] == "first_step" for event in attempt.events()):
        return PLACES[0]
    lines = attempt.lines()
    # A step is logged before it is evaluated: a last line without its evaluation was cut off there.
    return "eval" if lines and "train/loss" in lines[-1] and lines[-1]["step"] % eval_every == 0 else "step"
