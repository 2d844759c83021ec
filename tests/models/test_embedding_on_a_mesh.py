"""A lookup in a table that lies over vocabulary and width: XLA is not to make it whole against its will."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_no_involuntary_rematerialization():
    """What the compiler warns of goes to the process's standard error, past Python: a process of its own compiles the decoder's
    step for mesh (data 2, fsdp 2, tensor 2)."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS))),
        "TF_CPP_MIN_LOG_LEVEL": "0",
    }
    command = [sys.executable, str(TESTS / "toys" / "steps.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 10_000
    warned = [line for line in done.stderr.splitlines() if "rematerialization" in line.lower()]
    assert not warned, "\n".join(warned)
