"""Large leaves that the rule table leaves whole on a mesh that divides weights are told with their bytes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

from pretrainx.core.axes import boxed
from pretrainx.core.schedule import Ramp
from pretrainx.optim.optimizer import AdamWConfig, Optimizer
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import replicated
from pretrainx.training import state as states
from pretrainx.training.step import Options
from toys.line import Line

ROWS, SIDE = 8, 2**9


@dataclass(frozen=True)
class Heavy(Line):
    """Beside the line: a matrix without a mesh axis, one that is divided, a small one, and one that does not divide."""

    def init(self, key, batch):
        return super().init(key, batch) | {
            "adapter": boxed(jnp.zeros((SIDE, 2 * SIDE), "f4"), "rank", "classes"),
            "divided": boxed(jnp.zeros((SIDE, 2 * SIDE), "f4"), "embed", "mlp"),
            "little": boxed(jnp.zeros((8, 8), "f4"), "rank", "classes"),
            "odd": boxed(jnp.zeros((SIDE, 2 * SIDE + 1), "f4"), "rank", "embed"),
        }

    def start(self, key, params, batch):
        params, extras = super().start(key, params, batch)
        return params, extras | {"teacher": params["adapter"]}


def told(mesh, optimizer=AdamWConfig(), ema=0.0):
    objective = Heavy()
    options = Options(Rules(make_mesh(mesh, jax.devices()[:4])), seed=1, ema=ema)
    found = states.layout(objective, ROWS)
    chain = Optimizer(optimizer, Ramp(0.1, 0.1, 1), 0.0, found.params_axes)
    return replicated.lines(states.abstract(objective, chain, options, found), found, options.rules)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_whole_leaves_are_told():
    """Parameter, both moments, average and the copy in extras, by path; their share of what a device holds."""
    *lines, share = told(MeshConfig(1, 2, 2), ema=0.9)
    size = SIDE * 2 * SIDE * 4
    paths = [line.partition(":")[0] for line in lines]
    kinds = [
        "params/adapter",
        "ema/adapter",
        "optimizer/adam/mu/adapter",
        "optimizer/adam/nu/adapter",
        "extras/teacher",
    ]
    assert sorted(paths) == sorted(kinds)
    assert lines[0] == f"{paths[0]}: {size} bytes are whole on each device (axes rank, classes)"
    odd = SIDE * (2 * SIDE + 1) * 4
    whole, held = 5 * size + 4 * odd, 5 * size + 4 * odd + 4 * size // 4
    counted = int(share.partition(": ")[2].partition(" ")[0])
    assert share.startswith("whole on each of 4 devices: ") and 0 <= counted - whole < 5000
    assert f"{whole / held:.1%} of what one holds" in share


def test_bytes_are_those_of_the_dtype():
    lines = told(MeshConfig(1, 4), AdamWConfig(moments="bfloat16"))
    assert f"optimizer/adam/mu/adapter: {SIDE * 2 * SIDE * 2} bytes are whole" in "\n".join(lines)


def test_data_parallel_runs_are_not_told():
    """There everything is whole, as it was asked for."""
    assert told(MeshConfig(4)) == []
