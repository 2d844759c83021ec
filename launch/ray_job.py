#!/usr/bin/env python3
"""Many runs on a Ray cluster: each line of a file is one run, each run one task; done ones are skipped, ended ones go on.

    python launch/ray_job.py --runs=runs.txt --gpus=8 -- pretrainx train --config=configs/lm/gpt2_124m.py

with runs.txt, whose words are put behind the command (a line that begins with # is none):

    --workdir=/shared/runs/low --config.schedule.peak=3e-4
    --workdir=/shared/runs/high --config.schedule.peak=1e-3

Ray decides where and when; --cpus, --gpus, --tpus (chips of one host) and --resource=NAME:COUNT are what a run takes. All nodes
need this checkout at the same path, and the file system that holds the workdirs. Each task runs the command by launch/local.py,
which starts it again after exit 75 and a limited number of crashes; a run whose node is lost, or was asked to save and end, is
given out again. A run's output is in WORKDIR.log. The exit code is 0 where all runs are done, else that of the first which is
not. --print shows the runs, for which Ray is not needed; otherwise: pip install "pretrainx[ray]".
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LOCAL = Path(__file__).resolve().with_name("local.py")
PREEMPTED = 75


@dataclass(frozen=True)
class Run:
    """One run: its whole command, and the workdir that the command names."""

    command: tuple[str, ...]
    workdir: Path


@dataclass(frozen=True)
class Options:
    """Attributes:
    runs: in the order in which they are given out.
    resources: what Ray sets aside for one run, as it names them.
    restarts: how often one is started again without a new checkpoint, and how often its node may be lost.
    again: whether done runs are started too. show: only show them. address: "" is by RAY_ADDRESS, or a new one.
    """

    runs: tuple[Run, ...]
    resources: dict
    restarts: int
    again: bool
    show: bool
    address: str


def parse(words: list[str]) -> Options:
    own, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(
        prog="launch/ray_job.py",
        description="Runs a command once for each line of a file, on a Ray cluster.",
        usage="%(prog)s --runs=FILE [--cpus=N] [--gpus=N] [--tpus=N] [--resource=NAME:COUNT] [--restarts=N] [--again] "
        "[--address=HOST:PORT] [--print] -- COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("--runs", required=True, type=Path, help="one run per line: the words behind the command")
    parser.add_argument("--cpus", type=float, default=1, help="processors of one run (default 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of one run")
    parser.add_argument("--tpus", type=float, default=0, help="TPU chips of one run, on one host")
    parser.add_argument("--resource", action="append", default=[], help="NAME:COUNT, another resource of one run")
    parser.add_argument("--restarts", type=int, default=5, help="at most so many without a new checkpoint (default 5)")
    parser.add_argument("--again", action="store_true", help="start runs too that are done, such as with more steps")
    parser.add_argument(
        "--address", default="", help="of the cluster (default: RAY_ADDRESS, or a new one on this host)"
    )
    parser.add_argument("--print", dest="show", action="store_true", help="show the runs, start nothing")
    given = parser.parse_args(own)
    if not command:
        parser.error("no command: put it behind --")
    try:
        lines = given.runs.read_text().splitlines()
    except OSError as error:
        parser.error(f"--runs={given.runs}: {error.strerror}")
    runs = [run_of(command, line, parser) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not runs:
        parser.error(f"--runs={given.runs}: the file names no run")
    if len({run.workdir for run in runs}) < len(runs):
        parser.error(f"--runs={given.runs}: two runs have the same --workdir")
    others = {}
    for text in given.resource:
        name, colon, count = text.rpartition(":")
        if not colon or not count.replace(".", "", 1).isdigit():
            parser.error(f"--resource={text}: expected NAME:COUNT")
        others[name] = float(count)
    others |= {"TPU": given.tpus} if given.tpus else {}
    resources = {"num_cpus": given.cpus, "num_gpus": given.gpus, "resources": others}
    return Options(tuple(runs), resources, given.restarts, given.again, given.show, given.address)


def run_of(command: list[str], line: str, parser: argparse.ArgumentParser) -> Run:
    words = [*command, *shlex.split(line)]
    workdirs = [word.partition("=")[2] for word in words if word.startswith("--workdir=")]
    if not workdirs:
        parser.error(f"{line!r}: a run needs --workdir=DIR")
    return Run(tuple(words), Path(workdirs[-1]))


def done(workdir: Path) -> bool:
    """Whether the last thing that the run noted is that it is done."""
    try:
        return json.loads((workdir / "events.jsonl").read_text().splitlines()[-1]).get("kind") == "done"
    except (OSError, ValueError, IndexError):
        return False


def train(command: tuple[str, ...], workdir: str, place: str, restarts: int, again: bool) -> int:
    """The task: the run's exit code. `place` is the directory that relative paths start from."""
    os.chdir(place)
    if not again and done(Path(workdir)):
        return 0
    log = Path(f"{workdir.rstrip('/')}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        words = [sys.executable, str(LOCAL), f"--restarts={restarts}", "--", *command]
        child = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)
        try:
            signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
        except ValueError:  # Ray may run tasks in another thread; then the node's own signal reaches the launcher
            pass
        return child.wait()


def fleet(options: Options) -> int:
    """Gives out the runs and waits for all; the exit code of the first that is not done, else 0."""
    try:
        import ray
    except ImportError:
        print('launch: Ray is not installed: pip install "pretrainx[ray]"', file=sys.stderr)
        return 2
    ray.init(address=options.address or None, log_to_driver=False, logging_level="warning")
    task = ray.remote(**options.resources, max_retries=options.restarts)(train)
    place, began = os.getcwd(), time.monotonic()
    give_out = lambda run: task.remote(run.command, str(run.workdir), place, options.restarts, options.again)
    waiting = {give_out(run): run for run in options.runs}
    codes: dict[Run, int] = {}
    while waiting:
        (ready, *_), _ = ray.wait(list(waiting))
        run = waiting.pop(ready)
        try:
            code = ray.get(ready)
        except ray.exceptions.RayError as error:  # its node was lost too often
            code = 1
            tell(f"{run.workdir}: {str(error).strip().splitlines()[0]}")
        if code == PREEMPTED:
            tell(f"{run.workdir} was preempted and is given out again")
            waiting[give_out(run)] = run
            continue
        codes[run] = code
        minutes = (time.monotonic() - began) / 60
        tell(f"{run.workdir} ended by {code} ({len(codes)} of {len(options.runs)}, after {minutes:.1f} minutes)")
    ray.shutdown()
    return next((codes[run] for run in options.runs if codes[run]), 0)


def tell(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)


def main() -> int:
    options = parse(sys.argv[1:])
    if options.show:
        taken = options.resources | options.resources["resources"]
        print(
            "each takes "
            + ", ".join(f"{name}={count:g}" for name, count in taken.items() if name != "resources" and count)
        )
        for run in options.runs:
            print(("done: " if done(run.workdir) and not options.again else "") + shlex.join(run.command))
        return 0
    return fleet(options)


if __name__ == "__main__":
    sys.exit(main())
