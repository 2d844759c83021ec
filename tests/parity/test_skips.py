"""In CI a skip fails, be it of a test or of a whole file; elsewhere it is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "test": "import pytest\n\n\ndef test_that_skips():\n    pytest.skip('not here')\n",
    "file": "import pytest\n\npytest.importorskip('a_package_that_nobody_has')\n",
}


@pytest.mark.parametrize("kind", SKIPS)
@pytest.mark.parametrize("in_ci", [True, False])
def test_a_skip_fails_in_ci(kind, in_ci, tmp_path):
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(SKIPS[kind])
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=kept | ({"CI": "true"} if in_ci else {})
    )
    failed = done.returncode not in (0, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert failed == in_ci and ("skipped in CI" in done.stdout) == in_ci, done.stdout + done.stderr
