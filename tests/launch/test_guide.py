"""The guide: what it shows runs, and what it names is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
SHOWS = [line for line in COMMANDS if "--print" in line or "PRINT=1" in line or "--list" in line]


@pytest.mark.parametrize("command", SHOWS)
def test_commands_that_show_run(command, tmp_path):
    for name in ("launch", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout, done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["configs", "launch"]


def test_what_is_named_is_there():
    assert len(SHOWS) >= 6 and len(COMMANDS) == len(SHOWS) + 2
    named = {word for line in COMMANDS for word in re.findall(r"(?:launch|configs)/[\w/]+\.\w+", line)}
    listed = set(re.findall(r"^\| `(\S+)` \|", TEXT.split("```")[0], re.MULTILINE))
    assert all((ROOT / word).is_file() for word in named)
    here = {path.name for path in (ROOT / "launch").iterdir() if path.is_file()} - {"README.md"}
    assert listed == here, "each launcher has its line"
