"""The runs of a study as commands for other machines: a SLURM array, a Ray job, or one command a line.

Each holds the lock of its run, as a queue does (scaling/claims.py), so that no run is trained twice at once. A run of several
processes has one lock, around its launcher. What they reached is gathered by `pretrainx scaling run --workdir=DIR --collect`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pretrainx.core.errors import ConfigError
from pretrainx.core.whole_file import write_whole
from pretrainx.scaling import claims, manifest, status
from pretrainx.scaling.manifest import Run
from pretrainx.scaling.status import FINAL

NOTHING = "# nothing is left of {directory}: all runs are done, diverged, or being trained"
LAUNCH = Path(__file__).resolve().parents[2] / "launch"

SLURM = """\
#!/usr/bin/env bash
# The {count} runs of {directory} that are not done, a task each; the same command again resumes what has begun.
#
#   pretrainx scaling run --workdir={directory} --print=slurm > sweep.sbatch
#   sbatch --array=0-{last}%8 sweep.sbatch      # eight at a time
#
# Options given to sbatch on the command line replace those below.
#SBATCH --job-name=sweep
#SBATCH --array=0-{last}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
set -uo pipefail

runs=(
{runs}
)
id=${{runs[$SLURM_ARRAY_TASK_ID]}}
# The run's lock lasts as long as this job. Where there is no flock, see to it that nothing else trains the run.
exec 9>>{workdirs}/"$id".lock
flock -n -E 75 9 || [ $? -ne 75 ] || {{
    echo "$id: another process trains this run" >&2
    exit 1
}}
# It starts a run again that was preempted or crashed.
exec bash {launcher} train --config={configs}/"$id".json --workdir={workdirs}/"$id"
"""
UNDER_LOCK = ("python", "-m", "pretrainx.scaling.claims")


def train_words(directory: Path, run: Run) -> list[str]:
    """What is written behind `pretrainx` to train a run."""
    return [
        "train",
        f"--config={manifest.config_path(directory, run)}",
        f"--workdir={manifest.workdir(directory, run)}",
    ]


def left(directory: Path) -> list[Run]:
    """The runs of a study that are neither done nor diverged, and that nobody trains now."""
    begun = [run for run in manifest.read(directory).runs if status.standing(directory, run).state not in FINAL]
    return [run for run in begun if not claims.taken(claims.lock_path(directory, run))]


def locked(directory: Path, run: Run) -> list[str]:
    """What is written behind `python -m pretrainx.scaling.claims` to train a run under its lock."""
    return [str(claims.lock_path(directory, run)), "pretrainx", *train_words(directory, run)]


def launcher(name: str) -> Path:
    """A file of launch/. ConfigError where the package was installed without it."""
    path = LAUNCH / name
    if not path.is_file():
        raise ConfigError(
            "the launcher is not here",
            where=str(path),
            why="the package was installed without launch/",
            do="use a checkout (pip install -e .), or --print=commands and a launcher of your own",
        )
    return path


def printed(kind: str, directory: Path) -> str:
    """The runs that are left, in one of the forms of KINDS; a comment where there are none."""
    runs = left(directory)
    return KINDS[kind](directory, runs) if runs else NOTHING.format(directory=directory)


def commands(directory: Path, runs: Sequence[Run]) -> str:
    """A command a line."""
    return "\n".join(shlex.join([*UNDER_LOCK, *locked(directory, run)]) for run in runs)


def ray(directory: Path, runs: Sequence[Run]) -> str:
    """Writes DIR/runs.txt and returns the command that runs it on a Ray cluster."""
    lines = [shlex.join(locked(directory, run)) for run in runs]
    path = write_whole(directory / "runs.txt", "".join(f"{line}\n" for line in lines))
    return shlex.join(["python", str(launcher("ray_job.py")), f"--runs={path}", "--", *UNDER_LOCK])


def slurm(directory: Path, runs: Sequence[Run]) -> str:
    """A script for sbatch, with a task for each run."""
    quoted = shlex.quote
    return SLURM.format(
        count=len(runs),
        last=len(runs) - 1,
        directory=directory,
        runs="\n".join(f"    {quoted(run.id)}" for run in runs),
        launcher=quoted(str(launcher("slurm.sbatch"))),
        configs=quoted(str(directory / "configs")),
        workdirs=quoted(str(directory / "runs")),
    )


KINDS = {"slurm": slurm, "ray": ray, "commands": commands}
