"""The rule of this suite: without the reference packages its tests are skipped with a reason, and fail under CI=true."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(("ci", "code", "says"), [("", 0, "1 skipped"), ("true", 1, "skipped in CI: ")])
def test_a_missing_package(tmp_path, ci, code, says):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('hidden by a test', name='torch')\n")
    test = "tests/parity/test_gpt2.py::test_logits_loss_and_every_gradient[float64]"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"CI": ci, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-n0", "-rs", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == code and says in done.stdout, done.stdout + done.stderr
    assert "pip install 'pretrainx[parity]'" in done.stdout
