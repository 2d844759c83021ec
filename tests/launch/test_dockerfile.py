"""The image: its stages, what they copy and install."""

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "Dockerfile").read_text()


def stages():
    """{stage: [(instruction, rest of the line)]}, and {stage: what it is from}."""
    found, origins, current = {}, {}, None
    for line in TEXT.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        instruction, rest = line.split(None, 1)
        if instruction == "FROM":
            origin, current = re.fullmatch(r"(\S+) AS (\w+)", rest).groups()
            found[current], origins[current] = [], origin
        else:
            found[current].append((instruction, rest))
    return found, origins


def test_a_stage_for_each_kind_of_machine():
    found, origins = stages()
    assert list(found) == ["base", "cuda", "tpu", "cpu"]
    assert origins == {"base": "python:3.11-slim-bookworm", "cuda": "base", "tpu": "base", "cpu": "base"}
    assert {instruction for lines in found.values() for instruction, _ in lines} <= {
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "STOPSIGNAL",
        "ENTRYPOINT",
    }


def test_each_installs_an_extra_that_is_there():
    found, _ = stages()
    setup = (ROOT / "setup.py").read_text()
    installed = {stage: dict(lines)["RUN"] for stage, lines in found.items() if stage != "base"}
    assert {stage: shlex.split(line)[-1] for stage, line in installed.items()} == {
        "cuda": ".[cuda]",
        "tpu": ".[tpu]",
        "cpu": ".",
    }
    assert all(f'"{extra}": [' in setup for extra in ("cuda", "tpu"))


def test_what_is_copied_is_there_and_is_all_that_an_install_needs():
    copied = [word for instruction, rest in stages()[0]["base"] if instruction == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    assert {"setup.py", "pyproject.toml", "README.md", "pretrainx", "configs", "launch"} <= set(copied)


def test_the_command_gets_the_signals():
    """In the form without a shell; a shell as the first process would keep SIGTERM to itself."""
    base = dict(stages()[0]["base"])
    assert json.loads(base["ENTRYPOINT"]) == ["pretrainx"] and base["STOPSIGNAL"] == "SIGTERM"
