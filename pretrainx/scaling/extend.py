"""A study that is planned again: what is there stays, new runs join, and no run that has begun is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pretrainx.core.errors import ConfigError
from pretrainx.scaling import manifest as manifests
from pretrainx.scaling.manifest import Manifest, Run


def written(manifest: Manifest, directory: Path, say: Callable[[str], None], dry_run: bool = False) -> Manifest:
    """Writes the manifest, unless the one that is there says the same. ConfigError where a run that has begun would vanish."""
    path = directory / manifests.NAME
    before = manifests.read(directory) if path.is_file() else None
    known = {run.id for run in before.runs} if before else set()
    wanted = {run.id for run in manifest.runs}
    gone = [run for run in before.runs if run.id not in wanted] if before else []
    begun = [run for run in gone if has_begun(directory, run)]
    if begun:
        shown = ", ".join(run.id for run in begun[:4]) + (f" and {len(begun) - 4} more" if len(begun) > 4 else "")
        raise ConfigError(
            "runs that have begun would no longer be in the study",
            where=str(path),
            why=f"{len(begun)} of {len(before.runs)}: {shown}",
            do="plan the changed study in another --workdir, keep what made these runs (a study may grow: more budgets, more "
            f"seeds), or remove their directories below {directory / 'runs'}",
        )
    whole = all(manifests.config_path(directory, run).is_file() for run in manifest.runs)
    if before is not None and whole and as_written(manifest) == before:
        say(f"{path}: as it is, {len(manifest.runs)} runs")
        return before
    left = f", {len(gone)} that had not begun left out" if gone else ""
    said = (
        f"{len(manifest.runs)} runs, {len(wanted - known)} of them new{left}"
        if before
        else f"{len(manifest.runs)} runs"
    )
    if dry_run:
        say(f"dry run: {said}; nothing was written in {directory}")
        return manifest
    manifest.write(directory)
    for run in gone:
        manifests.config_path(directory, run).unlink(missing_ok=True)
    say(f"{path}: {said}")
    return manifest


def has_begun(directory: Path, run: Run) -> bool:
    """Whether anything of it is on disk."""
    workdir = manifests.workdir(directory, run)
    return workdir.is_dir() and any(workdir.iterdir())


def as_written(manifest: Manifest) -> Manifest:
    """The same as it is read back: tuples are lists."""
    values = json.loads(json.dumps(asdict(manifest)))
    return Manifest(**{**values, "runs": tuple(Run(**run) for run in values["runs"])})


def refuse_foreign(directory: Path) -> None:
    """ConfigError where the directory is the workdir of a run."""
    if (directory / "config.json").is_file():
        raise ConfigError(
            "the directory is the workdir of a run",
            where=f"--workdir={directory}",
            why="it has a config.json",
            do="name a directory of the study's own",
        )
