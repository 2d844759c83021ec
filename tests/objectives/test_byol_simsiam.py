"""BYOL and SimSiam: losses by hand, where gradients stop, the teacher's schedule."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.schedule import Cosine
from pretrainx.objectives.byol import ByolConfig
from pretrainx.objectives.simsiam import SimsiamConfig
from toys.small_views import FLIPPED, ROWS, Flat, batch, build, distance, of_views, run

BYOL = ByolConfig(0.5, 4, hidden=(5,), out=4, head_norm="none", first=FLIPPED, second=FLIPPED)
SIMSIAM = SimsiamConfig(hidden=(5,), out=4, bottleneck=3, head_norm="none", views=FLIPPED)
VIEWS = np.random.default_rng(0).standard_normal((2, ROWS, 8, 8, 1))


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@functools.lru_cache
def started(objective):
    given = batch()
    found = objective.start(jax.random.key(1), objective.init(jax.random.key(0), given), given)
    noise = np.random.default_rng(1)  # a teacher that differs from what it teaches, and biases that are not zero
    return tuple(jax.tree.map(lambda x: x + 0.1 * noise.standard_normal(x.shape), axes.unbox(tree)) for tree in found)


@functools.partial(jax.jit, static_argnums=0)
def encode(objective, params, extras, views=VIEWS, valid=None):
    weights = {"cosine": jnp.ones(ROWS) if valid is None else jnp.asarray(valid, float)}
    keys = jax.random.split(jax.random.key(0), ROWS)
    return objective.encode(params, extras, of_views(views, valid, weights), keys, 0, train=True)


def cosines(a, b):
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_byol_by_hand():
    objective = build(BYOL)
    params, extras = started(objective)
    online = [objective.model.apply({"params": params}, view) for view in VIEWS]
    target = [objective.teacher.apply({"params": extras["teacher"]}, view)["projection"] for view in VIEWS]
    near = cosines(online[0]["prediction"], target[1]), cosines(online[1]["prediction"], target[0])
    outcome = encode(objective, params, extras)
    np.testing.assert_allclose(outcome.per_row["cosine"], 4 - 2 * near[0] - 2 * near[1], rtol=1e-9)
    np.testing.assert_allclose(
        encode(objective, params, extras, VIEWS[::-1]).totals["cosine"], outcome.totals["cosine"]
    )


def test_simsiam_by_hand():
    objective = build(SIMSIAM)
    params, extras = started(objective)
    found = [objective.model.apply({"params": params}, view) for view in VIEWS]
    near = (cosines(found[side]["prediction"], found[1 - side]["projection"]) for side in (0, 1))
    outcome = encode(objective, params, extras)
    np.testing.assert_allclose(outcome.per_row["cosine"], -sum(near) / 2, rtol=1e-9)
    np.testing.assert_allclose(
        encode(objective, params, extras, VIEWS[::-1]).totals["cosine"], outcome.totals["cosine"]
    )


def test_no_gradient_to_byols_teacher():
    objective = build(BYOL)
    params, extras = started(objective)
    gradient = jax.grad(lambda extras: encode(objective, params, extras).totals["cosine"])(extras)
    assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) == 0


def test_simsiams_gradient_stops_at_the_projection():
    """Its gradient is that of the prediction alone: of another network whose projections are constants."""
    objective = build(SIMSIAM)
    params, extras = started(objective)
    still = [objective.model.apply({"params": params}, view)["projection"] for view in VIEWS]

    def by_hand(params):
        found = [objective.model.apply({"params": params}, view)["prediction"] for view in VIEWS]
        near = lambda a, b: ((a * b).sum(1) / jnp.linalg.norm(a, axis=1) / jnp.linalg.norm(b, axis=1)).sum()
        return -(near(found[0], still[1]) + near(found[1], still[0])) / 2

    gradient = lambda objective: jax.grad(lambda p: encode(objective, p, extras).totals["cosine"])(params)
    assert distance(gradient(objective), jax.grad(by_hand)(params)) < 1e-9
    without = build(SimsiamConfig(**{**vars(SIMSIAM), "stop_gradient": False}))
    assert distance(gradient(without), gradient(objective)) > 1e-3


def test_byols_teacher_moves_after_each_update():
    """Towards the new parameters, with the momentum of the step that made them; nothing else does by microbatch."""
    whole, parts = (run(build(BYOL), 2, microbatches=count) for count in (1, 2))
    teacher = {name: whole.states[0].params[name] for name in ("backbone", "projector")}
    for step, state in enumerate(whole.states[1:]):
        m = float(Cosine(0.5, 1.0, 4)(step))
        online = {name: state.params[name] for name in teacher}
        teacher = jax.tree.map(lambda old, new, m=m: m * old + (1 - m) * new, teacher, online)
        assert distance(state.extras["teacher"], teacher) < 1e-12
    assert distance(parts.gradient, whole.gradient) < 1e-9


@pytest.mark.parametrize("config", [BYOL, SIMSIAM], ids=["byol", "simsiam"])
def test_padded_rows_change_nothing(config):
    """No sample of BatchNorm, no part of loss or monitors."""
    objective, valid = build(config, Flat(group=0)), np.arange(ROWS) != 3
    params, extras = started(objective)
    other = VIEWS.copy()
    other[:, 3] = 1e3
    first, second = (encode(objective, params, extras, views, valid) for views in (VIEWS, other))
    assert distance(first.extras, second.extras) == 0
    assert distance((first.totals, first.metrics), (second.totals, second.metrics)) < 1e-12


def test_biases_of_heads_with_batch_norm():
    """SimSiam's predictor ends with one (Chen & He, section 3); what stands before a norm has none, and BYOL's has none."""
    names = lambda config: {
        path for path, _ in paths.leaves(build(config).init(jax.random.key(0), batch())) if path.endswith("bias")
    }
    dense = lambda found: {path for path in found if "/dense_" in path}
    assert dense(names(replace(SIMSIAM, head_norm="batch"))) == {"predictor/dense_1/bias"}
    assert dense(names(replace(BYOL, head_norm="batch"))) == set()
