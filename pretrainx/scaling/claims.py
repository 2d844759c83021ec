"""One process trains a run at a time: a lock per run, which its queue and its process hold, and the kernel frees."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None


class Claim:
    """The lock of one run. `descriptor` goes to the run's process: the lock outlives a queue that is killed.

    Queues on hosts that share a file system share the runs of a study where that file system has flock (NFS of Linux, Lustre
    mounted with it); where it has not, one host at a time.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def release(self) -> None:
        os.close(self.descriptor)


def claim(path: Path) -> Claim | None:
    """The lock on a file, which is made; None where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
    return Claim(descriptor)
