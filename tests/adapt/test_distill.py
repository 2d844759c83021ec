"""Distillation: the teacher is the model as it started, and stays that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.cases import CASES, make_batch, text
from pretrainx.adapt.distill import Distill, DistillConfig
from pretrainx.adapt.prompt import PromptConfig
from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.training import state as states
from toys.line import Line
from toys.linear import WIDTH, Choice


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_the_divergence_from_the_teacher():
    """temperature^2 KL(teacher || model) at each place that has weight; its gradient is for the model alone."""
    rng = np.random.default_rng(0)
    old, new = rng.standard_normal((2, WIDTH, 4))
    batch = {
        "x": rng.standard_normal((8, 2, WIDTH)),
        "label": np.zeros((8, 2), np.int32),
        "weight": rng.integers(0, 2, (8, 2)) * 1.0,
        "valid": np.arange(8) != 3,
    }
    objective = DistillConfig(temperature=3.0).wrap(Choice())
    observation = objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)

    def total(kernel, teacher):
        extras = {"inner": {}, "teacher": {"kernel": teacher}}
        return objective.encode({"kernel": kernel}, extras, observation, None, 0, train=True).totals["distill"]

    q, p = (softmax(batch["x"] @ kernel / 3) for kernel in (old, new))
    weight = batch["weight"] * batch["valid"][:, None]
    expected = 9 * (weight * (q * np.log(q / p)).sum(-1)).sum()
    assert float(total(new, old)) == pytest.approx(expected, rel=1e-9) and expected > 0.1
    assert float(total(old, old)) == pytest.approx(0, abs=1e-12)
    to_model, to_teacher = jax.grad(total, (0, 1))(jnp.asarray(new), jnp.asarray(old))
    by_hand = 3 * np.einsum("btd,btc->dc", batch["x"] * weight[..., None], p - q)
    np.testing.assert_allclose(to_model, by_hand, rtol=1e-9)
    assert not np.any(to_teacher)


def started(objective, batch):
    """(parameters, extras) as a run starts with them."""
    make = lambda: objective.start(jax.random.key(0), objective.init(jax.random.key(1), batch), batch)
    return map(axes.unbox, jax.jit(make)())


@pytest.mark.slow
@pytest.mark.rotated
def test_the_teacher_does_not_read_the_prompt():
    """Rows that were drawn from the vocabulary change at once what the model says; the teacher is what it was without them."""
    base = text(Autoregressive)
    objective = Distill(PromptConfig(3).wrap(base), temperature=1.0)
    batch = make_batch(objective, 4)
    params, extras = started(objective, batch)
    observation = objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)
    ask = lambda objective: objective.outputs(params, {}, observation.inputs, ("logits",))["logits"]
    q, p = (np.asarray(jax.nn.softmax(ask(each))) for each in (base, objective.inner))
    weights = np.asarray(observation.weights["distill"])
    expected = (weights * np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / np.maximum(p, 1e-300)), 0).sum(-1)).sum()
    assert (
        float(objective.judge(params, extras, observation)[0]) == pytest.approx(expected, rel=1e-6) and expected > 1e-4
    )


@pytest.mark.slow
@pytest.mark.rotated
def test_numbers_are_drawn_together():
    """The square of their difference, of rows that have weight."""
    inner = CASES["sequence_regression"]()
    objective = Distill(inner)
    batch = make_batch(objective, 4)
    params, extras = started(objective, batch)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    observation = objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)
    said = lambda params: inner.outputs(params, {}, observation.inputs, ("logits",))["logits"][:, 0]
    expected = np.where(batch["valid"], np.square(said(params) - said(moved)), 0)
    total, per_row = objective.judge(moved, extras, observation)
    np.testing.assert_allclose(per_row, expected, rtol=1e-6)
    assert float(total) == pytest.approx(expected.sum(), rel=1e-6) and expected.sum() > 1e-4


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        (Line, "beside its parameters"),
        (CASES["classification"], "beside its parameters"),
        (CASES["mae"], "no output 'logits'"),
        (CASES["masked_lm"], "targets of several kinds"),
    ],
    ids=["extras", "batch norm", "mae", "two tasks"],
)
def test_what_cannot_teach_is_refused(inner, why):
    with pytest.raises(ConfigError) as refused:
        states.layout(Distill(inner()), 4)
    assert why in refused.value.why
