"""Runs of several processes on loopback: the shipped command, started by the launcher or one process by one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.runs import write_corpus
from pretrainx.training import restore
from pretrainx.training.writers import read

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, str(ROOT / "launch" / "local.py")]
LIMIT = 150.0  # seconds that any attempt may take before all of its processes are killed
HEARTBEAT = 5  # seconds

CONFIG = """\
from ml_collections import ConfigDict


def get_config(arg=""):
    config = ConfigDict()
    config.model = dict(width=16, depth=2, heads=4, unroll=0)
    config.data = dict(source="text", paths=({corpus!r},), tokenizer="bytes", length=16, held_out=0.05)
    config.schedule = dict(name="constant", peak=3e-3, warmup=2)
    config.precision = dict(params="float64", compute="float64")
    config.train = dict(steps={steps}, batch_size=8, log_every=1)
    config.evals = dict(tokens=600)
    config.checkpoint = dict(every={every}, keep=3)
    config.ema = dict(decay=0.9)
    config.distributed = dict(heartbeat_seconds={heartbeat}, wait_seconds=60)
    return config
"""


@dataclass(frozen=True)
class Gang:
    """A run's command and workdir, for any number of processes and devices. The schedule is constant, so that a shorter run
    is the beginning of a longer one."""

    recipe: Path
    workdir: Path
    compiled: Path

    def words(self, *more: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "pretrainx",
            "train",
            f"--config={self.recipe}",
            f"--workdir={self.workdir}",
            *more,
        ]

    def environ(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PRETRAINX_", "PYTEST_"))}
        return (
            kept
            | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "JAX_COMPILATION_CACHE_DIR": str(self.compiled)}
            | more
        )

    def launch(self, processes: int, devices: int, *more: str) -> Attempt:
        """Starts it by the launcher."""
        options = [f"--processes={processes}", f"--devices={devices}", "--grace=60", "--"]
        return Attempt(self, [self._spawn([*LAUNCHER, *options, *self.words(*more)], self.environ())])

    def start(self, processes: int, devices: int, *more: str, each: tuple = ()) -> Attempt:
        """Starts its processes without the launcher: nothing is restarted, and each exit code is seen.

        `each` holds further words for every process.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        found = []
        for process in range(processes):
            own = {"JAX_NUM_CPU_DEVICES": str(devices)}
            if processes > 1:
                own |= {"PRETRAINX_PROCESSES": str(processes), "PRETRAINX_PROCESS": str(process)}
                own |= {"PRETRAINX_COORDINATOR": f"127.0.0.1:{port}"}
            words = self.words(*more, *(each[process] if each else ()))
            found.append(self._spawn(words, self.environ(**own)))
        return Attempt(self, found)

    def _spawn(self, words: list[str], environ: dict[str, str]) -> subprocess.Popen:
        count = sum(1 for _ in self.workdir.parent.glob(f"{self.workdir.name}.*.log"))
        with open(self.workdir.parent / f"{self.workdir.name}.{count}.log", "wb") as log:
            return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environ, start_new_session=True)

    def finish(self, processes: int, devices: int, *more: str) -> None:
        """Runs it to the end by the launcher and expects exit code 0."""
        codes = self.launch(processes, devices, *more).wait()
        assert codes == [0], self.output()

    def output(self) -> str:
        logs = sorted(self.workdir.parent.glob(f"{self.workdir.name}.*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    def losses(self) -> dict[int, float]:
        """{step: loss}; a step that ran twice must have given the same both times, to rounding."""
        found: dict[int, float] = {}
        for line in read(self.workdir / "metrics.jsonl"):
            if "train/loss" in line:
                step, loss = line["step"], line["train/loss"]
                assert abs(found.setdefault(step, loss) - loss) < 1e-9, f"step {step}: {found[step]!r} then {loss!r}"
        return found

    def hashes(self) -> dict[int, str]:
        return {
            line["step"]: line["batch_hash"] for line in read(self.workdir / "metrics.jsonl") if "batch_hash" in line
        }

    def events(self, kind: str) -> list[dict]:
        return [event for event in read(self.workdir / "events.jsonl") if event["kind"] == kind]

    def durable(self) -> list[int]:
        return restore.steps_in(self.workdir / "checkpoints")


@dataclass
class Attempt:
    """Processes of one start: those of a run, or one launcher."""

    gang: Gang
    processes: list[subprocess.Popen]

    def wait(self) -> list[int]:
        """The exit codes; kills everything, and fails, when that takes too long."""
        deadline = time.monotonic() + LIMIT
        for process in self.processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the processes are stuck:\n{self.gang.output()}") from None
        return [process.returncode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()

    def until(self, happened: Callable[[], bool]) -> None:
        started = time.monotonic()
        while not happened():
            ended = any(process.poll() is not None for process in self.processes)
            if ended or time.monotonic() - started > LIMIT:
                self.kill()
                raise AssertionError(f"it never happened:\n{self.gang.output()}")
            time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def write_recipe(directory: Path, steps: int, every: int) -> Path:
    corpus = write_corpus(directory / "corpus.txt", characters=30_000)
    path = directory / "recipe.py"
    path.write_text(CONFIG.format(corpus=str(corpus), steps=steps, every=every, heartbeat=HEARTBEAT))
    return path
