"""L2-SP: every pretrained parameter is held alike, and what is new is free."""

import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.adapt.l2_sp import L2SpConfig
from pretrainx.training import state as states
from toys.line import Line
from toys.small import RATE, ROWS, Small


@pytest.mark.parametrize("known", [1, 0])
def test_parameters_are_drawn_to_where_they_started(known):
    """strength / 2 |theta - theta0|^2 of leaves that the source has (1), and nothing of the others (0)."""
    run = Small(L2SpConfig(strength=0.5).wrap(Line()))
    assert run.state.extras["importance"]["slope"].shape == ()
    given = {"importance/slope": np.float32(known), "slope": np.array([4.0, 5.0])}
    run.state = states.create(run.objective, run.optimizer, run.options, run.found, ROWS, given)
    moved = np.array([4.25, 4.5])
    run.state = run.state.replace(params={"slope": jnp.asarray(moved)})
    after, metrics = run.step(fit=np.zeros(8))
    assert metrics["loss"] == metrics["term/l2_sp"] == pytest.approx(known * 0.5 * (0.25**2 + 0.5**2) / 2, rel=1e-12)
    np.testing.assert_allclose(after.params["slope"], moved - known * RATE * 0.5 * np.array([0.25, -0.5]), rtol=1e-12)
