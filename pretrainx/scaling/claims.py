"""One process trains a run at a time: a lock per run, which its queue and its process hold, and the kernel frees.

    python -m pretrainx.scaling.claims DIR/runs/ID.lock COMMAND ...

becomes the command with the lock held, and ends with exit code 1 where another process has it.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from pretrainx.scaling.manifest import Run, workdir

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None

ABSENT = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # what a file system without flock answers


class Claim:
    """The lock of one run. `descriptor` goes to the run's process: the lock outlives a queue that is killed.

    Queues on hosts that share a file system share the runs of a study where that file system has flock (NFS of Linux, Lustre
    mounted with it); where it has not, one host at a time.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def release(self) -> None:
        os.close(self.descriptor)


def lock_path(directory: Path, run: Run) -> Path:
    """DIR/runs/ID.lock"""
    return workdir(directory, run).with_name(f"{run.id}.lock")


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
        except OSError as error:
            if error.errno not in ABSENT:
                os.close(descriptor)
                raise
    return Claim(descriptor)


def taken(path: Path) -> bool:
    """Whether another process has the lock now."""
    held = claim(path)
    if held is not None:
        held.release()
    return held is None


def main(words: list[str]) -> int:
    path, *command = words
    held = claim(Path(path))
    if held is None:
        print(f"{path}: another process trains this run", file=sys.stderr)
        return 1
    os.set_inheritable(held.descriptor, True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
