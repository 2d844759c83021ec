#!/usr/bin/env python3
"""Runs a command as N processes of one run on this host, and starts all of them again where that helps.

    python launch/local.py --processes=2 --devices=2 -- pretrainx train --config=configs/quickstart.py --workdir=runs/a

Processes find each other on loopback, by variables that `config.distributed.kind=auto` reads. With NVIDIA GPUs each gets one
(process i the i-th), unless --devices simulates so many CPU devices in each. Lines of process i > 0 begin with "[i] ".

When one process ends otherwise than by 0, the others get SIGTERM, and SIGKILL --grace seconds later. The exit code that came
first decides: 75 (preempted, saved) starts all again; 7, 134, 137, 139 (hang, abort after a peer's death, killed, crashed) too,
but these at most --restarts times without a new checkpoint in between; every other code ends the launcher with it. SIGTERM,
SIGINT and SIGUSR1 are passed on to all processes, with the same grace, and nothing is started again after them.

Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import glob
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PREEMPTED = 75
LIMITED = (7, 134, 137, 139)  # 134, 137, 139 are 128 + SIGABRT, SIGKILL, SIGSEGV
PAUSE = 0.05  # seconds between looks at the processes
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@dataclass(frozen=True)
class Options:
    """Attributes:
    processes: how many; devices: CPU devices that each simulates, 0 for what is there.
    restarts: how often to start again without a new checkpoint in between; grace: seconds from SIGTERM to SIGKILL.
    command: the words of one process.
    """

    processes: int
    devices: int
    restarts: int
    grace: float
    show: bool
    command: tuple[str, ...]

    @property
    def workdir(self) -> Path | None:
        """Of the command's --workdir: where checkpoints tell whether a restart got further."""
        for word, following in zip(self.command, (*self.command[1:], ""), strict=True):
            if word.startswith("--workdir="):
                return Path(word.partition("=")[2])
            if word == "--workdir":
                return Path(following)
        return None


def parse(words: list[str]) -> Options:
    own, _, command = (
        (words[: words.index("--")], "--", words[words.index("--") + 1 :]) if "--" in words else (words, "", [])
    )
    parser = argparse.ArgumentParser(
        prog="launch/local.py",
        description="Runs a command as N processes of one run on this host.",
        usage="%(prog)s --processes=N [--devices=N] [--restarts=N] [--grace=SECONDS] [--print] -- COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--devices", type=int, default=0, help="CPU devices that each process simulates")
    parser.add_argument("--restarts", type=int, default=5, help="at most so many without a new checkpoint (default 5)")
    parser.add_argument("--grace", type=float, default=300.0, help="seconds from SIGTERM to SIGKILL (default 300)")
    parser.add_argument("--print", dest="show", action="store_true", help="show commands and environment, run nothing")
    given = parser.parse_args(own)
    if not command:
        parser.error("no command: put it behind --")
    if given.processes < 1 or given.devices < 0 or given.restarts < 0 or given.grace < 0:
        parser.error("--processes is at least 1, the other numbers at least 0")
    return Options(given.processes, given.devices, given.restarts, given.grace, given.show, tuple(command))


def environment(options: Options, process: int, port: int | str, gpus: int) -> dict[str, str]:
    """What is added to the environment of one process."""
    added = {}
    if options.processes > 1:
        added["PRETRAINX_COORDINATOR"] = f"127.0.0.1:{port}"
        added["PRETRAINX_PROCESSES"] = str(options.processes)
        added["PRETRAINX_PROCESS"] = str(process)
        added["JAX_COORDINATOR_BIND_ADDRESS"] = f"127.0.0.1:{port}"  # the service asks no one for a password
    if options.devices:
        added["JAX_PLATFORMS"] = "cpu"
        added["JAX_NUM_CPU_DEVICES"] = str(options.devices)
    elif gpus and options.processes > 1:
        added["CUDA_VISIBLE_DEVICES"] = visible_gpus(gpus)[process]
    return added


def gpu_count() -> int:
    return len(glob.glob("/dev/nvidia[0-9]*"))


def visible_gpus(count: int) -> list[str]:
    """The names of the GPUs that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(gpu) for gpu in range(count)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def show(options: Options, gpus: int) -> None:
    for process in range(options.processes):
        added = environment(options, process, "PORT", gpus)
        words = [f"{name}={shlex.quote(value)}" for name, value in added.items()]
        print(" ".join([*words, shlex.join(options.command)]))


class Gang:
    """All processes of one attempt: started together, ended together."""

    def __init__(self, options: Options, gpus: int):
        self.options, port = options, free_port()
        self.first: tuple[int, int] | None = None  # (process, exit code) of the first that ended otherwise than by 0
        self.stopping = False  # whether a signal was passed on: the processes end, or are killed after the grace
        self.processes, self.copies = [], []
        for process in range(options.processes):
            try:
                child = subprocess.Popen(
                    options.command,
                    env=os.environ | environment(options, process, port, gpus),
                    stdout=subprocess.PIPE if process else None,
                    stderr=subprocess.PIPE if process else None,
                    start_new_session=True,  # Ctrl-C reaches the launcher alone, which passes it on once
                )
            except OSError:  # no such command, or too many processes: those that were started wait for this one
                self.send(signal.SIGKILL)
                raise
            self.processes.append(child)
            for source, target in ((child.stdout, sys.stdout), (child.stderr, sys.stderr)) if process else ():
                copy = threading.Thread(target=prefixed, args=(process, source, target.buffer), daemon=True)
                copy.start()
                self.copies.append(copy)

    def send(self, number: int) -> None:
        for child in self.processes:
            if child.poll() is None:
                child.send_signal(number)

    def stop(self, number: int) -> None:
        self.stopping = True
        self.send(number)

    def wait(self) -> int:
        """The exit code of the gang: 0, or the first other one by time. Ends all when one failed."""
        deadline = None
        while any([self.ended(process, child) is None for process, child in enumerate(self.processes)]):
            if (self.first or self.stopping) and deadline is None:
                if self.first:
                    self.send(signal.SIGTERM)
                deadline = time.monotonic() + self.options.grace
            if deadline is not None and time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(PAUSE)
        for copy in self.copies:
            copy.join(timeout=5.0)
        return self.first[1] if self.first else 0

    def ended(self, process: int, child: subprocess.Popen) -> int | None:
        code = child.poll()
        if code and self.first is None:
            self.first = process, 128 - code if code < 0 else code
        return code


def prefixed(process: int, source, target) -> None:
    for line in source:
        target.write(b"[%d] %s" % (process, line if line.endswith(b"\n") else line + b"\n"))
        target.flush()


def durable_step(workdir: Path | None) -> int:
    """The newest checkpoint on disk; -1 without one."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")] if workdir else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def tell(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)


def run(options: Options, gpus: int) -> int:
    """Starts the gang, again where its exit code says so; the exit code of the last attempt."""
    stopped: list[int] = []
    gangs: list[Gang] = []

    def pass_on(number: int, frame) -> None:
        stopped.append(number)
        if gangs:
            gangs[-1].stop(number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    in_vain = 0
    while True:
        before = durable_step(options.workdir)
        try:
            gangs.append(Gang(options, gpus))
        except OSError as error:
            tell(f"{options.command[0]!r} cannot be started: {error.strerror or error}")
            return 2
        if stopped:  # it came while they were being started
            gangs[-1].stop(stopped[-1])
        code = gangs[-1].wait()
        if code == 0:
            return 0
        after = durable_step(options.workdir)
        if after > before:
            in_vain = 0
        elif code in LIMITED:
            in_vain += 1
        what = f"process {gangs[-1].first[0]} of {options.processes} ended first, by {code}"
        what += " (killed: perhaps by the kernel, out of memory)" if code == 137 else ""
        if stopped:
            tell(f"{what}; stopped by {signal.Signals(stopped[0]).name}, nothing is started again")
            return code
        if code not in (PREEMPTED, *LIMITED):
            tell(f"{what}; that is not started again")
            return code
        if code in LIMITED and in_vain > options.restarts:
            tell(f"{what}; {in_vain} times without a new checkpoint, the last is {after}: given up")
            return code
        tell(f"{what}; all are started again, from step {max(after, 0)}")


def main() -> int:
    options, gpus = parse(sys.argv[1:]), gpu_count()
    visible = len(visible_gpus(gpus)) if gpus else 0
    if visible and not options.devices and options.processes > max(visible, 1):
        tell(f"{options.processes} processes, but {visible} GPUs: one GPU per process, or simulate with --devices=N")
        return 2
    if options.show:
        show(options, gpus)
        return 0
    return run(options, gpus)


if __name__ == "__main__":
    sys.exit(main())
