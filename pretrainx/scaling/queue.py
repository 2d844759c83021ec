"""The runs of a study on this host, some at a time: done ones skipped, half-done ones resumed, failed ones tried again.

Each run is an ordinary `python -m pretrainx train` in a process of its own. How a run stands is read from its files, so the
queue may be killed at any time, and the same command goes on.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pretrainx.core.errors import (
    CollapseError,
    ConfigError,
    DataError,
    Interrupted,
    NonFiniteError,
    Preempted,
    PretrainxError,
)
from pretrainx.scaling import collect, manifest, outcome, status
from pretrainx.scaling.claims import Claim, claim, lock_path
from pretrainx.scaling.commands import train_words
from pretrainx.scaling.live import Live
from pretrainx.scaling.status import DIVERGED, DONE, FAILED, FINAL, RUNNING, STOPPED, Standing, Verdict
from pretrainx.scaling.version import version
from pretrainx.scaling.workplaces import Workplace, workplaces

PROGRAM = (sys.executable, "-m", "pretrainx")
PAUSE = 0.2  # seconds between looks at the processes
LOOK = 1.0  # seconds between looks at what they have written
GRACE = 300.0  # seconds that a run has to save and end; then it is killed
DIVERGING = (NonFiniteError.exit_code, CollapseError.exit_code)
RESUMED = (Preempted.exit_code, Interrupted.exit_code)
HOPELESS = (ConfigError.exit_code, DataError.exit_code)  # the same would happen again
HEARD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass
class Worker:
    """A run that is being trained: where, by which process, under which lock."""

    run: manifest.Run
    place: Workplace
    process: subprocess.Popen
    claim: Claim


@dataclass
class Queue:
    """Attributes:
    directory, study: where it is kept, and what is run.
    free: workplaces without a run. workers: those with one.
    retries: how often a run that failed is started again.
    failures, starts: of each run, by this queue.
    standings: of each run, as last seen. began: failures found before count no more.
    asked: the signals that came.
    """

    directory: Path
    study: manifest.Manifest
    free: list[Workplace]
    retries: int
    live: Live
    workers: list[Worker] = field(default_factory=list)
    failures: Counter = field(default_factory=Counter)
    starts: Counter = field(default_factory=Counter)
    standings: dict[str, Standing] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    asked: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Until every run is done, diverged or failed, or a signal came and the processes have ended."""
        looked = stopped = 0.0
        self.look(self.study.runs)
        while True:
            for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
                self.ended(worker)
            if self.asked and not stopped:
                stopped = time.monotonic()
                self.send(signal.SIGTERM)
                self.live.say(f"stopping: {len(self.workers)} runs save and end (the same signal again kills them)")
            if len(self.asked) > 1 or (stopped and time.monotonic() - stopped > GRACE):
                self.send(signal.SIGKILL)
            if not self.asked:
                self.start()
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                self.look([run for run in self.study.runs if self.standings[run.id].state == RUNNING])
            self.live.show(self.standings)
            if not self.workers and (self.asked or not self.left()):
                return
            time.sleep(PAUSE)

    def left(self) -> list[manifest.Run]:
        """The runs that are to be trained still, those with a process included."""
        return [run for run in self.study.runs if self.standings[run.id].state not in (*FINAL, FAILED)]

    def look(self, runs) -> None:
        """Reads how runs stand; one that a process trains is running, whatever its files say."""
        trained = {worker.run.id for worker in self.workers}
        for run in runs:
            found = status.standing(self.directory, run, self.began)
            elsewhere = self.standings.get(run.id, found).state == RUNNING and found.state not in (*FINAL, FAILED)
            if run.id in trained or elsewhere:
                found = Standing(RUNNING, found.step, found.steps, found.loss)
            self.standings[run.id] = found

    def start(self) -> None:
        """Gives each free workplace a run that nobody trains, in the order of the study."""
        trained = {worker.run.id for worker in self.workers}
        for run in self.left():
            if not self.free:
                return
            if run.id in trained:
                continue
            held = claim(lock_path(self.directory, run))
            if held is None:  # another queue's, or a process that a killed queue left
                self.standings[run.id] = Standing(RUNNING, *self.progress(run))
                continue
            self.standings[run.id] = status.standing(self.directory, run, self.began)
            if self.standings[run.id].state in (*FINAL, FAILED):  # another queue was faster
                held.release()
                continue
            self.starts[run.id] += 1
            self.standings[run.id] = Standing(RUNNING, *self.progress(run))
            place = self.free.pop(0)
            self.workers.append(Worker(run, place, train(self.directory, run, place, held), held))
            self.live.say(f"{run.id}: started")

    def progress(self, run: manifest.Run) -> tuple[int, int, float]:
        found = self.standings[run.id]
        return found.step, found.steps, found.loss

    def ended(self, worker: Worker) -> None:
        """Finds out how a process ended, writes it down, collects the table anew and frees the workplace."""
        self.workers.remove(worker)
        self.free.append(worker.place)
        run, code = worker.run, worker.process.returncode
        found = status.standing(self.directory, run, self.began)
        said = last_error(manifest.workdir(self.directory, run).with_name(f"{run.id}.log"), code)
        if code in DIVERGING and found.state != DIVERGED:
            found = Standing(DIVERGED, found.step, found.steps, found.loss, said)
        elif code not in (0, *RESUMED, *DIVERGING) or (code == 0 and found.state not in FINAL):
            self.failures[run.id] += not self.asked  # what ends after a signal of ours is no failure of the run
            if code in HOPELESS or self.failures[run.id] > self.retries:
                found = Standing(FAILED, found.step, found.steps, found.loss, said)
            else:
                said += f"; tried again ({self.failures[run.id]} of {self.retries})" if not self.asked else ""
        if found.state in (*FINAL, FAILED):
            Verdict(found.state, code, self.starts[run.id], found.why, version(), time.time()).write(
                self.directory, run
            )
        else:
            found = Standing(STOPPED, found.step, found.steps, found.loss, said if code not in RESUMED else "")
        self.standings[run.id] = found
        worker.claim.release()
        loss = f", training loss {found.loss:.4f}" if found.state == DONE else ""
        self.live.say(
            f"{run.id}: {found.state} at step {found.step}/{found.steps}{loss}{': ' * bool(found.why)}{found.why}"
        )
        self.collect()
        if found.state == DONE and (lacking := collect.lacks(self.directory, self.study, run)):
            self.live.say(f"warning: {lacking}")

    def collect(self) -> None:
        """Writes the table, in which runs stand as their files say now: another queue may have ended some."""
        self.look(self.study.runs)
        collect.collect(self.directory, self.standings)

    def send(self, number: int) -> None:
        for worker in self.workers:
            worker.process.send_signal(number)

    def hear(self, number: int, frame) -> None:
        self.asked.append(number)


def train(directory: Path, run: manifest.Run, place: Workplace, held: Claim) -> subprocess.Popen:
    """The run's process, its output behind that of earlier ones in DIR/runs/ID.log; Ctrl-C reaches the queue alone."""
    with manifest.workdir(directory, run).with_name(f"{run.id}.log").open("ab") as log:
        return subprocess.Popen(
            [*PROGRAM, *train_words(directory, run)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **place.environment},
            start_new_session=True,
            pass_fds=(held.descriptor,),
            preexec_fn=place.enter(os.getpid()),
        )


def last_error(log: Path, code: int) -> str:
    """What a process said last about why it ended, in one line; else its exit code in words."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (" (by the kernel, perhaps: out of memory)" if name == "SIGKILL" else "")
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode("utf-8", errors="replace")
    blocks = re.findall(r"^error: (.*?)(?:  \(exit \d+\))?$((?:\n  .*)*)", text, re.MULTILINE)
    if not blocks:
        return f"exit code {code}; see {log}"
    what, details = blocks[-1]
    why = re.search(r"^  why   (.*)$", details, re.MULTILINE)
    return what + (f": {why[1]}" if why else "")


def run(directory: Path, workers: int = 0, retries: int = 2, say: Callable[[str], None] = print) -> None:
    """Runs what is left of the study in a directory, `workers` runs at a time (0: one per GPU, else one).

    Raises:
      ConfigError: no study there, or more workers than devices.
      Preempted, Interrupted: a signal came; the runs have saved.
      PretrainxError: runs failed, each more than `retries` times.
    """
    directory = Path(directory)
    study = manifest.read(directory)
    queue = Queue(directory, study, list(workplaces(workers)), retries, Live(study, say))
    before = {number: signal.signal(number, queue.hear) for number in HEARD}
    try:
        queue.run()
        queue.collect()
    finally:
        for worker in queue.workers:  # only where this loop itself failed
            worker.process.send_signal(signal.SIGTERM)
        for number, handler in before.items():
            signal.signal(number, handler)
    queue.live.close(queue.standings)
    if study.kind == "grid":
        for line in outcome.lines(outcome.outcome(directory)):
            say(line)
    failed = [run for run in study.runs if queue.standings[run.id].state == FAILED]
    if queue.asked and queue.left():
        kind = Interrupted if queue.asked[0] == signal.SIGINT else Preempted
        raise kind(
            f"stopped by {signal.Signals(queue.asked[0]).name}: {queue.live.summary(queue.standings)}",
            where=str(directory),
            do="run the same command again: done runs are skipped, the others go on",
        )
    if failed:
        raise PretrainxError(
            f"{len(failed)} of {len(study.runs)} runs failed",
            where=", ".join(f"{manifest.workdir(directory, run)}.log" for run in failed[:5]),
            why=queue.standings[failed[0].id].why,
            do="mend the cause and run the same command again: failed runs are tried again, done ones skipped",
        )
