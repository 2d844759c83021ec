"""What a run never changes is stored once, in DIR/base, and whatever happens to it is noticed."""

import json

import jax
import numpy as np
import pytest

from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.training import base, verify
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import BaseError, as_tree, read_meta, restore_step
from toys.line import Line
from toys.small import Small

CONSTANT = {"params/still", "extras/rows"}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def saved(tmp_path):
    """(run, its states at steps 1 and 2, DIR/checkpoints), with `still` and `rows` in the base."""
    run, directory = Small(Line()), tmp_path / "checkpoints"
    checkpoints = Checkpoints(directory, 5)
    checkpoints.keep_base(run.state, ("rows",), {})
    states = []
    for _ in range(2):
        run.step()
        # The toy puts what it saw into `rows`: here it is kept as it was.
        run.state = run.state.replace(extras=run.state.extras | {"rows": np.zeros_like(run.state.extras["rows"])})
        states.append(jax.tree.map(np.array, run.state))
        assert checkpoints.save(run.state, {})
        checkpoints.wait()
    checkpoints.close()
    return run, states, directory


def like(run):
    placed = jax.tree.map(jax.numpy.asarray, run.state)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), placed)


def restored(run, directory, step):
    return restore_step(directory, step, like(run), run.optimizer.init).state


def test_steps_leave_out_what_the_base_has(saved):
    run, states, directory = saved
    of_base = read_meta(base.beside(directory), base.STEP)
    assert set(of_base["leaves"]) == CONSTANT
    for step, state in enumerate(states, 1):
        meta = read_meta(directory, step)
        assert {path for path, entry in meta["leaves"].items() if entry.get("base")} == CONSTANT
        index = json.loads((directory / str(step) / "state" / "_METADATA").read_text())["tree_metadata"]
        assert not any("still" in name or "rows" in name for name in index) and any("slope" in name for name in index)
        found = as_tree(restored(run, directory, step))
        for path, leaf in paths.leaves(as_tree(state)):
            assert np.array_equal(np.asarray(leaf), np.asarray(dict(paths.leaves(found))[path])), path
        assert {path for path, _ in verify.verify(directory, step)} == set(meta["leaves"])


def test_a_leaf_that_differs_from_the_base_is_in_the_step(saved):
    """A base that an earlier start has made is never taken for leaves that are others now."""
    run, _, directory = saved
    checkpoints = Checkpoints(directory, 5)
    other = run.state.replace(step=np.int32(3), frozen={"still": run.state.frozen["still"] + 1})
    checkpoints.keep_base(other, ("rows",), {})
    assert checkpoints.save(other, {})
    checkpoints.close()
    meta = read_meta(directory, 3)
    assert {path for path, entry in meta["leaves"].items() if entry.get("base")} == {"extras/rows"}
    assert np.array_equal(np.asarray(restored(run, directory, 3).frozen["still"]), np.asarray(other.frozen["still"]))


def test_a_run_that_freezes_nothing_has_no_base(tmp_path):
    run = Small(Line())
    trained = run.state.replace(params=run.state.full_params(), frozen={})
    Checkpoints(tmp_path / "checkpoints", 5).keep_base(trained, (), {})
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_a_damaged_base_is_named_and_no_step_is_blamed(saved, damage):
    run, _, directory = saved
    stored = base.beside(directory) / str(base.STEP)
    if damage == "removed":
        stored.rename(stored.with_name("elsewhere"))
    else:
        for file in sorted(path for path in stored.rglob("*") if path.is_file() and path.parent.name == "d"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(bytes(content))
    with pytest.raises(BaseError) as caught:
        Checkpoints(directory, 5).restore_newest(like(run), run.optimizer.init)
    assert str(stored) in caught.value.where and "base" in caught.value.do and caught.value.exit_code == 4
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2"]
    with pytest.raises(CheckpointError):
        list(verify.verify(directory, 2))


def test_a_base_that_no_step_uses_is_made_anew(tmp_path):
    """Of a start that was abandoned before its first step, from another run, say."""
    run, told = Small(Line()), []
    directory = tmp_path / "checkpoints"
    Checkpoints(directory, 5).keep_base(run.state, (), {})
    other = run.state.replace(frozen={"still": run.state.frozen["still"] + 1})
    checkpoints = Checkpoints(directory, 5, lambda kind, **facts: told.append((kind, facts)))
    checkpoints.keep_base(other, (), {})
    assert checkpoints.save(other, {}) and not [facts for kind, facts in told if kind == "warning"]
    checkpoints.close()
    assert read_meta(directory, 0)["leaves"]["params/still"].get("base")


def test_leaves_that_every_step_stores_are_told(saved):
    run, _, directory = saved
    told = []
    checkpoints = Checkpoints(directory, 5, lambda kind, **facts: told.append((kind, facts)))
    checkpoints.keep_base(run.state.replace(frozen={"still": run.state.frozen["still"] + 1}), ("rows",), {})
    ((kind, facts),) = told
    assert kind == "warning" and "1 of 2 frozen leaves" in facts["text"]


def test_a_frozen_leaf_that_is_not_finite_is_refused(tmp_path):
    run = Small(Line())
    broken = run.state.replace(frozen={"still": run.state.frozen["still"] * np.nan})
    with pytest.raises(CheckpointError, match="frozen parameters cannot be stored") as caught:
        Checkpoints(tmp_path / "checkpoints", 5).keep_base(broken, (), {})
    assert "not finite" in caught.value.why
