"""Whether the checkpoints of a run will find room, asked before it trains."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.core.leaves import bytes_of
from pretrainx.core.readable import size
from pretrainx.training import base
from pretrainx.training.restore import as_tree, steps_in
from pretrainx.training.state import TrainState


@dataclass(frozen=True)
class DiskNeed:
    """Bytes.

    Attributes:
      state: one saved state, uncompressed, without what is stored once.
      shared: what is stored once.
      saves: how many lie on the disk at once: those that are kept, and one that is being written.
      present: what the steps that are there take now; they make room for later ones, damaged ones set aside do not.
      free: room on the file system.
    """

    state: int
    saves: int
    present: int
    free: int
    shared: int = 0

    @property
    def missing(self) -> int:
        return max(0, self.shared + self.state * self.saves - self.present - self.free)

    def __str__(self) -> str:
        once = f"{size(self.shared)} once, " if self.shared else ""
        return f"{once}{self.saves} x {size(self.state)}, {size(self.present)} there already, {size(self.free)} free"

    def error(self, directory: Path) -> CheckpointError:
        return CheckpointError(
            "the disk is too small for the checkpoints",
            where=str(directory),
            why=f"{self}: {size(self.missing)} are missing",
            do="make room, lower config.checkpoint.keep, or choose a --workdir on another disk",
        )


def disk_need(state: TrainState, keep: int, directory: Path, constants: tuple[str, ...] = ()) -> DiskNeed:
    """What `keep` checkpoints of an (abstract) state need under `directory`, which need not exist yet.

    constants: as the run's objective has them.
    """
    sizes = {path: bytes_of(leaf) for path, leaf in paths.leaves(as_tree(state))}
    shared = sum(sizes[path] for path in base.constant_paths(state, constants))
    own = sum(sizes.values()) - shared
    there = next(path for path in (directory, *directory.absolute().parents) if path.is_dir())
    present = sum(bytes_under(directory / str(step)) for step in steps_in(directory))
    present += bytes_under(base.beside(directory))
    return DiskNeed(own, keep + 1, present, shutil.disk_usage(there).free, shared)


def bytes_under(directory: Path) -> int:
    """Bytes of all files below a directory; 0 where there is none. What vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(directory):  # not rglob: it fails where a directory vanishes
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
