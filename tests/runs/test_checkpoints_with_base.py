"""ckpt list, inspect and verify of runs whose frozen leaves lie in DIR/base, whole and damaged."""

import jax
import numpy as np
import pytest

from pretrainx.core.errors import CheckpointError
from pretrainx.runs.checkpoints import inspected, listed, verified
from pretrainx.training import base, verify
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import BaseError
from toys.line import Line
from toys.small import Small

STILL = 16  # bytes of the leaf that is never trained: two numbers


@pytest.fixture(scope="module")
def state():
    with jax.enable_x64(True):
        yield Small(Line()).state


@pytest.fixture
def workdir(state, tmp_path):
    """Steps 1 and 2, with `still` in the base."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", 5)
    checkpoints.keep_base(state, (), {})
    for step in (1, 2):
        assert checkpoints.save(state.replace(step=np.int32(step)), {"config": {}, "data": {}, "wall": 1.0})
        checkpoints.wait()
    checkpoints.close()
    return tmp_path


def spoilt(step):
    for file in sorted(path for path in step.rglob("*") if path.is_file() and path.parent.name == "d"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))


def said_of(command, *arguments):
    said = []
    assert command(*arguments, say=said.append) == 0
    return said


def refused(kind, workdir):
    """(the error, the lines that were said before it) of a verification."""
    said = []
    with pytest.raises(kind) as caught:
        verified(workdir, say=said.append)
    return caught.value, said


def test_list_and_inspect(workdir):
    lines = said_of(listed, workdir)
    assert [line.split()[0] for line in lines] == ["step", "1", "2", "base"]
    assert "MiB" in lines[-1] and "ago" in lines[-1] and lines[-1].endswith("stored once for all steps")
    *_, last = said = said_of(inspected, workdir)
    assert [line.split()[0] for line in said if line.endswith("  base")] == ["params/still"]
    assert last.endswith(f", and 1 leaves, {STILL} bytes, in {workdir / 'base'}")


def test_the_base_is_read_once(workdir, monkeypatch):
    read, real = [], verify.read_leaf
    monkeypatch.setattr(verify, "read_leaf", lambda step, *rest: read.append(step.parent.name) or real(step, *rest))
    first, *steps = said_of(verified, workdir)
    assert first.startswith("base: whole, 1 leaves") and [line.split(",")[0] for line in steps] == [
        "step 1: whole",
        "step 2: whole",
    ]
    assert read.count("base") == 1 and read.count("checkpoints") > 2


@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_a_damaged_base_is_not_the_steps_fault(workdir, damage):
    stored = workdir / "base" / str(base.STEP)
    stored.rename(stored.with_name("elsewhere")) if damage == "removed" else spoilt(stored)
    error, said = refused(BaseError, workdir)
    assert str(stored) in error.where and "copy of DIR/base back" in error.do and error.exit_code == 4
    assert not any("DAMAGED" in line and line.startswith("step") for line in said)
    assert [line.partition(",")[0] for line in said[-2:]] == [
        f"step {step}: its own leaves are whole" for step in (1, 2)
    ]
    with pytest.raises(BaseError):
        list(verify.verify(workdir / "checkpoints", 2))


def test_the_base_of_another_run(workdir, state, tmp_path_factory):
    """It is whole, and not what the steps were saved with."""
    other = tmp_path_factory.mktemp("other")
    moved = state.replace(frozen={"still": state.frozen["still"] + 1})
    Checkpoints(other / "checkpoints", 5).keep_base(moved, (), {})
    (workdir / "base").rename(workdir / "elsewhere")
    (other / "base").rename(workdir / "base")
    error, said = refused(BaseError, workdir)
    assert "saved with step 1" in error.why and error.why in said[1] and said[0].startswith("base: whole")


def test_a_damaged_step_is_blamed_for_itself(workdir):
    spoilt(workdir / "checkpoints" / "2")
    error, said = refused(CheckpointError, workdir)
    assert not isinstance(error, BaseError) and "DAMAGED" in said[2]
    assert [line.split(",")[0] for line in said[:2]] == ["base: whole", "step 1: whole"]
