"""Where the runs of a queue work at the same time: shares of the cores, or one GPU each."""

from __future__ import annotations

import ctypes
import glob
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pretrainx.core.errors import ConfigError

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
# Loaded here: between fork and exec of a child nothing may be imported.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Workplace:
    """What one run at a time has: cores (all where empty), and variables of its environment."""

    cores: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def enter(self, queue: int) -> Callable[[], None]:
        """What the child does before it becomes the run; `queue` is the process that waits for it.

        XLA sizes its pool of threads by the cores that a process may use. Should the queue be killed, its children get SIGTERM:
        they save and end, and nobody trains on unseen.
        """

        def before() -> None:
            if self.cores:
                os.sched_setaffinity(0, self.cores)
            if _LIBC is not None:
                _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
                if os.getppid() != queue:  # it died before the line above
                    os._exit(1)

        return before


def workplaces(workers: int) -> tuple[Workplace, ...]:
    """As many as are asked for; 0 is one per GPU, else one. ConfigError where there are not so many devices."""
    kind, devices = accelerators()
    if kind == "gpu":
        return of_gpus(workers, devices)
    if kind == "tpu" and workers > 1:
        raise ConfigError(
            "one process takes all TPU chips of a host",
            where=f"--workers={workers}",
            why="a second run would wait for the first for ever",
            do="--workers=1, or --print=slurm or --print=ray for several hosts",
        )
    if kind == "tpu" or workers <= 1:
        return (Workplace(),)
    return of_cores(workers, sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ())


def of_gpus(workers: int, devices: Sequence[str]) -> tuple[Workplace, ...]:
    if workers > len(devices):
        raise ConfigError(
            "there are fewer GPUs than workers",
            where=f"--workers={workers}",
            why=f"each worker has one; here are {len(devices)}",
            do=f"--workers={len(devices)}",
        )
    chosen = devices[: workers or len(devices)]
    return tuple(Workplace(environment={"CUDA_VISIBLE_DEVICES": device}) for device in chosen)


def of_cores(workers: int, cores: Sequence[int]) -> tuple[Workplace, ...]:
    """Equal shares of neighbouring cores; of more workers than cores several share one."""
    shares = [cores[len(cores) * i // workers : len(cores) * (i + 1) // workers] for i in range(workers)]
    return tuple(Workplace(tuple(share or cores[i % len(cores) :][:1])) for i, share in enumerate(shares))


def accelerators() -> tuple[str, list[str]]:
    """("gpu", their names), ("tpu", []) or ("cpu", []): from the environment and /dev, since asking JAX would take them."""
    platforms = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if platforms in ("", "cuda", "gpu") and (found := glob.glob("/dev/nvidia[0-9]*")):
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(index) for index in range(len(found))]
        return ("gpu", names) if given != "" else ("cpu", [])
    if platforms in ("", "tpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
        return "tpu", []
    return "cpu", []
