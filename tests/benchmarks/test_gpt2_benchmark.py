"""benchmarks/gpt2_124m.py where there is no accelerator: it says what it would run, and that it was not."""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "gpt2_124m.py"


def run(*arguments):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_without_an_accelerator():
    """The recipe of the largest shape is whole, and nothing is allocated; help names every shape."""
    said = run("--shape=llama-8b", "--rows=3")
    assert said.splitlines()[-1] == "not measured: no accelerator" and "tokens/s" not in said
    for part in ("8,030,261,248 parameters kept in bfloat16", "3 rows of 4096 tokens", "remat full", "XLA_FLAGS="):
        assert part in said, part
    assert "124,439,808 parameters kept in float32" in run()
    assert all(part in run("--help") for part in ("gpt2-124m", "llama-1b", "llama-8b", "offload", "446,000"))


@pytest.mark.slow
def test_smoke():
    said = run("--smoke", "--steps=2", "--moments=bfloat16", "--remat=attention")
    assert "tokens/s per device, MFU" in said and "loss 5." in said
