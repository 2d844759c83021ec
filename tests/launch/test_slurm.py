"""The batch script, with stand-ins for SLURM's own two commands: what is requeued and what is not."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"


@pytest.fixture
def submit(tmp_path):
    """(exit code, what scontrol was called with) of the script where `srun` ends by a code."""

    def run(code, restarts=0):
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, body in {"srun": f"exit {code}", "scontrol": f'echo "$@" > {tmp_path}/scontrol'}.items():
            (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (commands / name).chmod(0o755)
        environ = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
        environ["SLURM_RESTART_COUNT"] = str(restarts)
        done = subprocess.run(["bash", SCRIPT, "train", "--workdir=a"], env=environ, capture_output=True, text=True)
        called = tmp_path / "scontrol"
        return done.returncode, called.read_text().strip() if called.exists() else ""

    return run


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (75, 0, True),
        (75, 99, True),
        (7, 4, True),
        (134, 4, True),
        (137, 5, False),
        (0, 0, False),
        (2, 0, False),
        (130, 0, False),
    ],
)
def test_what_goes_back_into_the_queue(submit, code, restarts, requeued):
    assert submit(code, restarts) == (code, "requeue 17" if requeued else "")


def test_print_runs_nothing():
    environ = os.environ | {"PRINT": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", SCRIPT, "train", "--config=a b"], env=environ, capture_output=True, text=True)
    assert done.stdout == "srun --kill-on-bad-exit=1 --wait=300 --label pretrainx train --config=a\\ b \n"
    assert done.returncode == 0


def test_the_steps_get_the_signal():
    """With `B:` the batch shell alone would; without --requeue a preempted job is gone."""
    options = [line.split(maxsplit=1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--signal=TERM@300" in options and "--requeue" in options
