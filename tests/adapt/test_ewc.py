"""Elastic weight consolidation: what is held, how strongly, and where it leaves the parameters."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.cases import make_batch, text
from pretrainx.adapt.ewc import Ewc, EwcConfig
from pretrainx.adapt.lora import LoraConfig
from pretrainx.core import axes, paths
from pretrainx.core.schedule import Ramp
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.training import state as states
from toys.line import Line
from toys.linear import WIDTH, Regression
from toys.small import RATE, ROWS, Small


def restored(run, **given):
    """The run from the start, its parameters and what `init` makes beside them given."""
    run.state = states.create(run.objective, run.optimizer, run.options, run.found, ROWS, given)
    return run


def test_each_parameter_is_held_by_its_importance():
    """The gradient is strength * F * (theta - theta*); what is not trained is not held."""
    run = restored(Small(Ewc(Line(), 0.5)), **{"importance/slope": np.float32([2, 8]), "slope": np.array([4.0, 5.0])})
    assert set(run.state.extras) == {"inner", "anchor", "importance"} and set(run.state.extras["anchor"]) == {"slope"}
    moved = np.array([4.25, 4.5])
    run.state = run.state.replace(params={"slope": jnp.asarray(moved)})
    after, metrics = run.step(fit=np.zeros(8))
    assert metrics["term/ewc"] == pytest.approx(0.5 * (2 * 0.25**2 + 8 * 0.5**2) / 2, rel=1e-12)
    np.testing.assert_allclose(after.params["slope"], moved - RATE * 0.5 * np.array([2 * 0.25, 8 * -0.5]), rtol=1e-12)
    np.testing.assert_array_equal(after.extras["anchor"]["slope"], [4.0, 5.0])


def test_the_strength_rises():
    objective = EwcConfig(strength=3.0, ramp=4).wrap(Line())
    assert [objective.terms[-1].at(step) for step in (0, 2, 4, 9)] == [0.0, 1.5, 3.0, 3.0]
    assert EwcConfig(strength=3.0).wrap(Line()).terms[-1].at(0) == 3.0
    assert objective == EwcConfig(strength=3.0, ramp=4).wrap(Line()) and objective.terms[-1].coefficient == Ramp(
        0.0, 3.0, 4
    )


@dataclass(frozen=True)
class NewHead(Line):
    heads = ("slope",)


def test_a_new_head_is_free():
    run = Small(Ewc(NewHead(), 0.5))
    assert not jax.tree.leaves(run.state.extras["anchor"])
    run.state = run.state.replace(params={"slope": jnp.array([4.25, 4.5])})
    assert run.step(fit=np.zeros(8))[1]["loss"] == 0


@pytest.mark.parametrize("strength", [0.7, 1e7])
def test_of_a_quadratic_the_minimum_is_known(strength):
    """(mean of x x' + strength F) theta = mean of x y + strength F theta*; a strength without end keeps theta*."""
    rng = np.random.default_rng(3)
    x, y, old, importance = rng.standard_normal((ROWS, WIDTH)), rng.standard_normal(ROWS), *rng.random((2, WIDTH))
    batch = {"x": x, "y": y, "valid": np.ones(ROWS, bool)}
    objective = Ewc(Regression(), strength)
    observation = objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)
    extras = {"inner": {}, "anchor": {"slope": old}, "importance": {"slope": importance}}

    def loss(slope):
        totals = objective.encode({"slope": slope}, extras, observation, None, 0, train=True).totals
        return sum(term.at(0) * totals[term.name] / observation.weights[term.name].sum() for term in objective.terms)

    zero = jnp.zeros(WIDTH)
    lowest = -np.linalg.solve(*jax.jit(lambda at: (jax.hessian(loss)(at), jax.grad(loss)(at)))(zero))
    hold = strength * np.diag(importance)
    np.testing.assert_allclose(lowest, np.linalg.solve(x.T @ x / ROWS + hold, x.T @ y / ROWS + hold @ old), rtol=1e-7)
    if strength == 1e7:
        np.testing.assert_allclose(lowest, old, atol=1e-5)


@pytest.mark.slow
@pytest.mark.rotated
def test_around_lora_effective_weights_are_held():
    """Held are the kernels that updates move, at what base and update amount to together: the penalty is of W + A B."""
    config = LoraConfig(rank=2, alpha=6.0)
    objective = Ewc(config.wrap(text(Autoregressive)))
    batch = make_batch(objective)
    make = lambda: objective.start(jax.random.key(0), objective.init(jax.random.key(1), batch), batch)
    params, extras = map(axes.unbox, jax.jit(make)())
    held = dict(paths.leaves(extras["anchor"]))
    assert sorted(held) == [f"layers/attention/{name}/kernel" for name in ("query", "value")]
    rng = np.random.default_rng(0)
    noise = lambda path, leaf: leaf + rng.standard_normal(leaf.shape) * path.endswith("lora_b")
    params = paths.map_leaves(noise, params)
    importance = paths.map_leaves(lambda _, leaf: rng.random(leaf.shape), extras["importance"])
    observation = objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)
    total, per_row = jax.jit(objective.judge)(params, extras | {"importance": importance}, observation)
    expected = 0.0
    for path in held:
        beside = params["layers"]["attention"][path.split("/")[2]]
        update = 3.0 * jnp.einsum("ldr,lrhk->ldhk", beside["lora_a"], beside["lora_b"])
        expected += (dict(paths.leaves(importance))[path] * update**2).sum() / 2
    valid = batch["valid"]
    assert float(total) == pytest.approx(float(expected) * valid.sum(), rel=1e-9)
    np.testing.assert_allclose(per_row, expected * valid, rtol=1e-9)


def test_small_updates_of_a_base_in_bfloat16_are_held():
    """W + A B is of more digits than W: rounded as W is, updates of 1e-4 would be steps or nothing."""
    objective = Ewc(LoraConfig(rank=2, alpha=2.0).wrap(text(Autoregressive)))
    batch, rng = make_batch(objective, 2), np.random.default_rng(0)
    short = lambda path, leaf: leaf.replace_boxed(leaf.value.astype("bfloat16")) if path.endswith("kernel") else leaf
    earlier = lambda path, leaf: leaf.replace_boxed(leaf.value + 1e-4) if path.endswith("lora_b") else leaf
    make = lambda: objective.start(
        jax.random.key(0),
        paths.map_leaves(earlier, paths.map_leaves(short, objective.init(jax.random.key(1), batch))),
        batch,
    )
    params, extras = map(axes.unbox, jax.jit(make)())
    apart = {path: leaf for path, leaf in paths.leaves(params) if "lora_" in path}
    noise = {path: 1e-4 * rng.standard_normal(leaf.shape) for path, leaf in apart.items() if path.endswith("lora_b")}
    params = paths.map_leaves(lambda path, leaf: leaf + noise.get(path, 0), params)
    observation = objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)
    total, _ = jax.jit(objective.judge)(params, extras, observation)
    expected = sum(
        np.square(jnp.einsum("ldr,lrhk->ldhk", apart[path.replace("lora_b", "lora_a")], moved)).sum() / 2
        for path, moved in noise.items()
    )
    assert float(total) / batch["valid"].sum() == pytest.approx(float(expected), rel=1e-2)
