"""The runs of a study as commands for other machines: a SLURM array, a Ray job, or one command a line."""

from __future__ import annotations

import shlex
from pathlib import Path

from pretrainx.core.errors import ConfigError
from pretrainx.core.whole_file import write_whole
from pretrainx.scaling import manifest, status
from pretrainx.scaling.manifest import Run
from pretrainx.scaling.status import FINAL

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
# It starts a run again that was preempted or crashed.
exec bash {launcher} train --config={configs}/"$id".json --workdir={workdirs}/"$id"
"""


def train_words(directory: Path, run: Run) -> list[str]:
    """What is written behind `pretrainx` to train a run."""
    return [
        "train",
        f"--config={manifest.config_path(directory, run)}",
        f"--workdir={manifest.workdir(directory, run)}",
    ]


def left(directory: Path) -> list[Run]:
    """The runs of a study that are neither done nor diverged."""
    runs = manifest.read(directory).runs
    return [run for run in runs if status.standing(directory, run).state not in FINAL]


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


def commands(directory: Path) -> str:
    """A command a line."""
    return "\n".join(shlex.join(["pretrainx", *train_words(directory, run)]) for run in left(directory))


def ray(directory: Path) -> str:
    """Writes DIR/runs.txt and returns the command that runs it on a Ray cluster."""
    lines = [shlex.join(train_words(directory, run)[1:]) for run in left(directory)]
    path = write_whole(directory / "runs.txt", "".join(f"{line}\n" for line in lines))
    return shlex.join(["python", str(launcher("ray_job.py")), f"--runs={path}", "--", "pretrainx", "train"])


def slurm(directory: Path) -> str:
    """A script for sbatch, with a task for each run that is left."""
    runs, quoted = left(directory), shlex.quote
    return SLURM.format(
        count=len(runs),
        last=max(len(runs) - 1, 0),
        directory=directory,
        runs="\n".join(f"    {quoted(run.id)}" for run in runs),
        launcher=quoted(str(launcher("slurm.sbatch"))),
        configs=quoted(str(directory / "configs")),
        workdirs=quoted(str(directory / "runs")),
    )


KINDS = {"slurm": slurm, "ray": ray, "commands": commands}
