"""The state: what it holds, what it refuses, and the average it keeps."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import paths
from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.optim.optimizer import AdamWConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states
from toys.line import Line
from toys.small import ROWS, Small


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_average_after_three_steps():
    """ema' = decay * ema + (1 - decay) * params', of the trained leaves alone, started as the parameters."""
    run = Small(Line(0.1), ema=0.9)
    average = np.asarray(run.state.ema["slope"])
    np.testing.assert_array_equal(average, run.state.params["slope"])
    for step in range(3):
        state, _ = run.step(seed=step)
        average = 0.9 * average + 0.1 * state.params["slope"]
        np.testing.assert_allclose(state.ema["slope"], average, rtol=1e-14)
    assert set(state.ema) == {"slope"}
    assert state.full_params(averaged=True)["slope"] is state.ema["slope"]
    assert state.full_params()["slope"] is state.params["slope"]
    assert state.full_params(averaged=True)["still"] is state.frozen["still"]
    assert Small(Line()).state.ema == {}


class Narrow(Line):
    """With parameters in bfloat16."""

    def init(self, key, batch):
        return {"slope": boxed(jnp.ones(2, jnp.bfloat16), "embed"), "still": boxed(jnp.ones(2, jnp.bfloat16), "embed")}


def test_averages_of_narrow_parameters_are_wide():
    """In bfloat16 0.999 x 1 + 0.001 x 1.25 is 1, and stays so."""
    run = Small(Narrow(), ema=0.999)
    assert run.state.params["slope"].dtype == jnp.bfloat16 and run.state.ema["slope"].dtype == jnp.float32
    state, _ = run.step()
    wanted = 0.999 + 0.001 * np.float64(state.params["slope"])
    np.testing.assert_allclose(state.ema["slope"], wanted, rtol=1e-6)
    assert (state.params["slope"] != 1).all() and (state.ema["slope"] != 1).all()


def test_frozen_leaves_have_no_optimizer_state():
    """They do not move even under decay, and no moment is kept for them."""
    run = Small(Line(), optimizer=AdamWConfig(decays=("bias",)))
    assert set(paths.names_of(run.state.opt_state)["adam"]["mu"]) == {"slope"}
    found = states.abstract(run.objective, run.optimizer, run.options, run.found)
    assert [path for path, _ in paths.leaves(paths.names_of(found.opt_state)) if "still" in path] == []
    state, _ = run.step()
    np.testing.assert_array_equal(state.frozen["still"], [2.0, 2.0])
    assert set(state.params) == {"slope"} and set(state.frozen) == {"still"}


def test_plain_arrays():
    """No boxes, and no path that ends in /value."""
    run = Small(Line(), ema=0.5)
    for field in ("params", "frozen", "extras", "ema"):
        for path, leaf in paths.leaves(getattr(run.state, field)):
            assert isinstance(leaf, jax.Array) and not path.endswith("value"), path
    flat = jax.tree_util.tree_leaves_with_path(run.state)
    assert not [path for path, _ in flat if "value" in jax.tree_util.keystr(path)]


def test_training_nothing_refused():
    @dataclass(frozen=True)
    class Still(Line):
        def trains(self, path):
            return False

    with pytest.raises(ConfigError, match="no parameter is trained") as caught:
        Small(Still())
    assert "all 2 leaves" in caught.value.why


@pytest.mark.parametrize("where", ["params", "extras"])
def test_unboxed_leaf_refused(where):
    """Named by its path: without axes it would silently be replicated, undecayed and unknown to Muon."""

    @dataclass(frozen=True)
    class Bare(Line):
        def start(self, key, params, batch):
            bare = {"layers": {"bare": jnp.zeros(3)}}
            return (params | bare, {}) if where == "params" else (params, bare)

    with pytest.raises(ValueError, match="layers/bare has no logical axis names"):
        states.layout(Bare(), ROWS)


def test_wrong_number_of_axes_refused():
    @dataclass(frozen=True)
    class Wrong(Line):
        def init(self, key, batch):
            return super().init(key, batch) | {"square": boxed(jnp.zeros((2, 2)), "embed")}

    with pytest.raises(ValueError, match="square has axes"):
        states.layout(Wrong(), ROWS)


def test_restored_leaves_are_there_before_start():
    @dataclass(frozen=True)
    class Anchored(Line):
        def start(self, key, params, batch):
            params, extras = super().start(key, params, batch)
            return params, extras | {"anchor": params["slope"]}

    run = Small(Anchored())
    given = {"slope": np.array([5.0, 7.0])}
    state = states.create(run.objective, run.optimizer, run.options, run.found, ROWS, restored=given)
    np.testing.assert_array_equal(state.params["slope"], [5.0, 7.0])
    np.testing.assert_array_equal(state.extras["anchor"], [5.0, 7.0])
    np.testing.assert_array_equal(state.frozen["still"], [2.0, 2.0])


def test_fallbacks_are_told_and_limited():
    """A leaf whose size does not divide is kept whole, with its bytes; above the limit it is refused."""
    found = states.layout(Line(), 6)
    rules = Rules(make_mesh(MeshConfig(1, 4), jax.devices()[:4]))
    lines = states.fallbacks(found, rules)
    assert lines[0] == "slope: 16 bytes kept whole on each device (embed: 2 over 4 ways)"
    assert {line.split(":")[0] for line in lines} == {"slope", "still", "mean", "rows"}
    with pytest.raises(ConfigError, match="cannot be split over the mesh"):
        states.fallbacks(found, rules, limit_bytes=8)
    assert states.fallbacks(found, Rules(make_mesh(MeshConfig(1, 2), jax.devices()[:2]))) == []


def test_restored_leaves_take_their_places():
    """Parameters before `start` runs, running statistics after it: what `start` makes of the restored ones stays."""
    run, mean = Small(Line()), np.array([3.0, 4.0])
    shared = run.objective, run.optimizer, run.options, run.found, ROWS
    state = states.create(*shared, {"slope": np.array([5.0, 6.0])}, {"mean": mean})
    assert np.array_equal(state.params["slope"], [5.0, 6.0]) and np.array_equal(state.extras["mean"], mean)
    assert np.array_equal(state.frozen["still"], run.state.frozen["still"])
    assert np.array_equal(state.extras["rows"], run.state.extras["rows"])
