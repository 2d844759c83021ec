"""Optimizers whose states are unlike their parameters, in the train step of the decoder: mesh, accumulation, resume."""

import jax
import numpy as np
import pytest

from contract.cases import bits, host, make_batch, prepare
from pretrainx.core import paths
from pretrainx.optim.optimizer import AdafactorConfig, AdamWConfig, LARSConfig
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import restore_step

CONFIGS = {
    "adafactor": AdafactorConfig(factored_from=16, momentum=0.9, weight_decay=0.1),
    "lars": LARSConfig(weight_decay=0.1),
    "adamw in bfloat16": AdamWConfig(moments="bfloat16"),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def stepped(run, state, steps):
    for step in steps:
        state, _ = run.step(state, run.place(make_batch(run.objective, seed=step)))
    return state


@pytest.mark.slow
@pytest.mark.xdist_group("autoregressive")
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_and_resume(name, tmp_path):
    """Three steps on eight devices in two microbatches are those of one device; saved after two, the third is bit-equal."""
    one = prepare("autoregressive", optimizer=CONFIGS[name])
    cube = prepare("autoregressive", MeshConfig(2, 2, 2), 2, optimizer=CONFIGS[name])
    start = host(one.state.params)
    alone = host(stepped(one, one.state, range(3)))
    state = stepped(cube, cube.state, range(2))
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.save(state, {"config": {}, "data": {}, "wall": 1.0})
    checkpoints.close()
    state = stepped(cube, state, [2])
    like = states.abstract(cube.objective, cube.optimizer, cube.options, cube.found)
    restored = restore_step(tmp_path, 2, like, jax.jit(cube.optimizer.init))
    assert not restored.lines
    assert bits(host(stepped(cube, restored.state, [2]))) == bits(host(state))
    assert cube.step.traces == one.step.traces == 1
    found, wanted = (dict(paths.leaves(paths.names_of(tree))) for tree in (host(state), alone))
    # Attention does not see the keys' bias: its gradient is rounding, which Adafactor brings to the size of any other.
    for path in (path for path in wanted if not path.endswith("attention/key/bias")):
        np.testing.assert_allclose(found[path], wanted[path], rtol=1e-9, atol=1e-9, err_msg=path)
    before = dict(paths.leaves(start))
    still = [path for path, leaf in paths.leaves(alone.params) if np.array_equal(leaf, before[path])]
    assert set(still) <= {"layers/attention/key/bias"}
