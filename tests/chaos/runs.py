"""What the chaos suite shares: one tiny run in a process of its own, and reading what it left behind.

The run is the shipped command on a generated corpus, small enough that a restart costs seconds, with every kind of state
that a checkpoint holds: parameters, moments, averages, guard counters.
"""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pretrainx.training import restore
from pretrainx.training.writers import read

STEPS, EVERY, EVAL_EVERY = 40, 10, 20  # of the undisturbed run that the suite shares
LIMIT = 240.0  # seconds that any single process of the suite may take before it counts as stuck

CONFIG = """\
from ml_collections import ConfigDict


def get_config(arg=""):
    config = ConfigDict()
    config.model = dict(width=32, depth=2, heads=2, unroll=0)
    config.data = dict(source="text", paths=({corpus!r},), tokenizer="bytes", length=32, held_out=0.05)
    config.schedule = dict(peak=3e-3, warmup=5)
    config.train = dict(steps={steps}, batch_size=8, log_every=1, eval_every={eval_every})
    config.checkpoint = dict(every={every}, keep={keep})
    config.ema = dict(decay=0.9)
    return config
"""


def write_corpus(path: Path, characters: int = 60_000, seed: int = 0) -> Path:
    """Sentences of made-up words: something to learn, nothing to fetch, the same everywhere."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("aeioulmnrst", k=rng.randint(2, 7))) for _ in range(300)]
    text = ""
    while len(text) < characters:
        text += " ".join(rng.choices(words, k=rng.randint(4, 12))) + ".\n"
    path.write_text(text)
    return path


def write_recipe(directory: Path, steps=60, every=10, eval_every=20, keep=3) -> Path:
    """A config file and its corpus in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(directory / "corpus.txt")
    path = directory / "recipe.py"
    path.write_text(CONFIG.format(corpus=str(corpus), steps=steps, every=every, eval_every=eval_every, keep=keep))
    return path


@dataclasses.dataclass(frozen=True)
class Run:
    """The command of one run. `compiled` is the compilation cache that all processes of a test session share."""

    recipe: Path
    workdir: Path
    compiled: Path

    def command(self, *more: str) -> list[str]:
        words = ["train", f"--config={self.recipe}", f"--workdir={self.workdir}", *more]
        return [sys.executable, "-m", "pretrainx", *words]

    def start(self, *more: str) -> Attempt:
        """Starts the command; its output goes to files beside the workdir, so that no pipe can fill up."""
        count = sum(1 for _ in self.workdir.parent.glob(f"{self.workdir.name}.*.err"))
        log = self.workdir.parent / f"{self.workdir.name}.{count}"
        env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(self.compiled)}
        env.pop("JAX_NUM_CPU_DEVICES", None)
        env.pop("XLA_FLAGS", None)  # the program that users run, not the one that tests compile faster
        before = len(self.events()), len(self.lines()), time.time()
        with open(f"{log}.out", "wb") as out, open(f"{log}.err", "wb") as err:
            process = subprocess.Popen(self.command(*more), stdout=out, stderr=err, env=env, start_new_session=True)
        return Attempt(process, self, Path(f"{log}.out"), Path(f"{log}.err"), *before)

    def finish(self, *more: str) -> Attempt:
        """Runs the command to its end and expects exit code 0."""
        attempt = self.start(*more)
        assert attempt.wait() == 0, attempt.stderr()
        return attempt

    def events(self) -> list[dict]:
        return read(self.workdir / "events.jsonl")

    def lines(self) -> list[dict]:
        """Every line of metrics.jsonl, those of steps that ran twice included."""
        return read(self.workdir / "metrics.jsonl")

    def durable(self) -> list[int]:
        return restore.steps_in(self.workdir / "checkpoints")

    def unfinished_saves(self, since: float = 0.0) -> list[str]:
        """The directories of saves under way or torn, those that nothing has touched after `since` left out."""
        try:
            found = [
                entry for entry in os.scandir(self.workdir / "checkpoints") if ".orbax-checkpoint-tmp" in entry.name
            ]
            return [entry.name for entry in found if entry.stat().st_ctime >= since]
        except FileNotFoundError:  # also of an entry that was renamed while we looked
            return []

    def checksums(self, step: int) -> dict[str, int]:
        """Checksum of every leaf of a saved state: equal tables are equal states, bit for bit."""
        meta = restore.read_meta(self.workdir / "checkpoints", step)
        return {path: leaf["checksum"] for path, leaf in meta["leaves"].items()}


@dataclasses.dataclass
class Attempt:
    """One process of a run, how long the journal was before it, and when it began (seconds since 1970)."""

    process: subprocess.Popen
    run: Run
    out: Path
    err: Path
    events_before: int
    metrics_before: int
    began: float

    def saving(self) -> bool:
        """Whether it writes a checkpoint, or died on one. What earlier kills tore, and start-up clears away, does not count."""
        unfinished = self.run.unfinished_saves(since=self.began)
        return bool(unfinished) and any(event["kind"] == "first_step" for event in self.events())

    def events(self) -> list[dict]:
        return self.run.events()[self.events_before :]

    def lines(self) -> list[dict]:
        return self.run.lines()[self.metrics_before :]

    def logged(self) -> list[int]:
        """The steps that this process logged, in order."""
        return [line["step"] for line in self.lines() if "train/loss" in line]

    def stdout(self) -> str:
        return self.out.read_text(errors="replace")

    def stderr(self) -> str:
        return self.err.read_text(errors="replace")

    def wait(self) -> int:
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the process is stuck:\n{self.stdout()[-2000:]}\n{self.stderr()[-2000:]}") from None

    def until(self, happened: Callable[[], bool], pause: float = 0.001) -> bool:
        """Waits for something in a living process; False when the process ended first."""
        started = time.monotonic()
        while not happened():
            if self.process.poll() is not None:
                return False
            if time.monotonic() - started > LIMIT:
                self.process.kill()
                raise AssertionError(f"it never happened:\n{self.stdout()[-2000:]}\n{self.stderr()[-2000:]}")
            time.sleep(pause)
        return True

    def last_step(self) -> Callable[[], int]:
        """A cheap probe for polling: the newest step in metrics.jsonl that this process wrote, else 0."""
        path, position, newest = self.run.workdir / "metrics.jsonl", None, 0

        def probe() -> int:
            nonlocal position, newest
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return 0
            if size != position:
                position = size
                newest = max(self.logged()[-1:], default=0)
            return newest

        return probe


def differing(reference: Run, run: Run) -> tuple[int, list[str]]:
    """(values compared, those that differ): loss and batch hash of every logged step, and every held-out loss.

    All lines of all attempts count: a step that ran again must have given the same float both times.
    """
    expected = {(line["step"], name): value for line in reference.lines() for name, value in _compared(line)}
    count, wrong, seen = 0, [], set()
    for line in run.lines():
        for name, value in _compared(line):
            count += 1
            seen.add((line["step"], name))
            if expected.get((line["step"], name)) != value:
                wrong.append(f"step {line['step']} {name}: {value!r}, unbroken {expected.get((line['step'], name))!r}")
    wrong += [f"step {step} {name}: never logged" for step, name in sorted(expected.keys() - seen)]
    return count, wrong


def _compared(line: dict) -> Iterator[tuple[str, object]]:
    return ((name, line[name]) for name in ("train/loss", "batch_hash", "eval/held_out/loss") if name in line)


def block_of(text: str) -> str:
    """The last block of a process's stderr, from its `error:` line to the end; it must be the end."""
    lines = text.rstrip("\n").split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(starts) == 1, text[-3000:]
    block = lines[starts[0] :]
    assert all(line.startswith("  ") for line in block[1:]), "something follows the block:\n" + "\n".join(block[:20])
    return "\n".join(block)
