"""Which steps count, and what a step that does not count leaves alone."""

import chex
import jax
import numpy as np
import pytest

from pretrainx.core.schedule import Ramp
from pretrainx.optim.optimizer import AdamWConfig, SGDConfig
from pretrainx.training.guard import GuardConfig
from toys.line import Line
from toys.small import ROWS, Small, batch

NAN = np.full((ROWS, 2), np.nan)
counters = lambda state: tuple(int(state.guard[name]) for name in ("skipped", "streak", "accepted"))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_streak():
    """Consecutive skips are counted, an accepted step ends them, the total stays."""
    run, seen = Small(Line()), []
    for bad in (False, True, True, False, True, False):
        state, metrics = run.step(**({"x": NAN} if bad else {}))
        seen.append(counters(state))
        assert (metrics["skipped"], metrics["streak"]) == counters(state)[:2]
    assert seen == [(0, 0, 1), (1, 1, 1), (2, 2, 1), (2, 0, 2), (3, 1, 2), (3, 0, 3)]
    assert state.step == 6


def test_skipped_step_changes_nothing_but_the_step():
    """Parameters, moments, extras, average: bit-equal. Rows and streams move on, the learning rate does not."""
    rate = Ramp(0.1, 0.5, 4)
    run = Small(Line(0.1), rate=rate, optimizer=AdamWConfig(), ema=0.9)
    before, metrics = run.step()
    np.testing.assert_allclose(metrics["lr"], 0.1)
    after, metrics = run.step(x=NAN)
    np.testing.assert_allclose(metrics["lr"], 0.2)
    assert np.isnan(metrics["loss"])
    for field in ("params", "frozen", "opt_state", "extras", "ema"):
        chex.assert_trees_all_equal(getattr(after, field), getattr(before, field))
    assert (before.step, after.step) == (1, 2) and after.extras["steps"] == 1
    np.testing.assert_array_equal(after.guard["recent"], before.guard["recent"])
    after, metrics = run.step()
    np.testing.assert_allclose(metrics["lr"], 0.2, err_msg="the schedule counted the skipped step")
    assert after.step == 3 and after.extras["steps"] == 2


def test_spikes_are_skipped_on_request_only():
    """With spike_sigma, a loss beyond mean + sigma * deviation of the last `window` accepted steps is skipped."""
    flat = SGDConfig(momentum=0.0)
    options = {"rate": Ramp(0.0, 0.0, 1), "optimizer": flat}
    careful = Small(Line(), guard=GuardConfig(spike_sigma=3.0, window=4), **options)
    careless = Small(Line(), guard=GuardConfig(window=4), **options)
    for run, skipped in ((careful, 1), (careless, 0)):
        run.step(x=np.full((ROWS, 2), 50.0))  # the window is not yet full: accepted
        for level in (1.0, 1.1, 0.9, 1.0):
            state, _ = run.step(x=np.full((ROWS, 2), level))
        assert counters(state) == (0, 0, 5)
        np.testing.assert_allclose(sorted(state.guard["recent"][:, 0]), [1.8, 2.0, 2.0, 2.2], rtol=1e-6)
        state, _ = run.step(x=np.full((ROWS, 2), 5.0))
        assert counters(state)[0] == skipped
        assert np.isclose(state.guard["recent"][:, 0], 10.0).any() == (not skipped), "a skipped loss is not remembered"
    state, _ = careful.step(x=np.full((ROWS, 2), 1.05))
    assert counters(state) == (1, 0, 6)


def test_window_decides_after_a_restore():
    """The window is part of the state: the same step on a state without it decides otherwise."""
    rate, guard = Ramp(0.0, 0.0, 1), GuardConfig(spike_sigma=3.0, window=2)
    run, fresh = Small(Line(), rate=rate, guard=guard), Small(Line(), rate=rate, guard=guard)
    for level in (1.0, 1.1):
        saved, _ = run.step(x=np.full((ROWS, 2), level))
    spike = batch(x=np.full((ROWS, 2), 9.0))
    place = lambda state: jax.tree.map(jax.device_put, state, run.train.shardings)
    restored, _ = run.train(place(saved), spike)
    forgotten, _ = run.train(place(saved.replace(guard=jax.tree.map(np.asarray, fresh.state.guard))), spike)
    assert counters(restored) == (1, 1, 2) and counters(forgotten) == (0, 0, 1)
