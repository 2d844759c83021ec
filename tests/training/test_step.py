"""The train step against hand-computed steps of the smallest objective, in float64."""

from dataclasses import dataclass, replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import random
from pretrainx.core.schedule import Ramp
from pretrainx.training.step import scales, train_step
from toys.line import Line, Pairs
from toys.small import RATE, ROWS, Small, batch

close = lambda a, b, gap=1e-12: np.testing.assert_allclose(a, b, rtol=gap, atol=gap)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_fractional_weights():
    """Weights .1 .2 .1 and losses 2 3 4: the mean is 3.0, not 1.2 as with a divisor max(1, W)."""
    run = Small(Line(), rows=3)
    fields = {"rows": 3, "x": [[2, 0], [3, 0], [4, 0]], "fit": [0.1, 0.2, 0.1]}
    _, metrics = run.step(**fields)
    close(metrics["loss"], 3.0)
    close(metrics["term/fit"], 3.0)
    close(run.gradients["slope"], [3.0, 0.0])


def test_term_without_weight():
    """W = 0 of one term, or of all: loss 0 and a finite, zero gradient from it."""
    run = Small(Line(coefficient=0.5))
    state, metrics = run.step(fit=np.zeros(ROWS))
    close(metrics["term/fit"], 0.0)
    close(metrics["loss"], 0.5 * 2)
    close(run.gradients["slope"], [1.0, 1.0])
    state, metrics = run.step(fit=np.zeros(ROWS), size=np.zeros(ROWS))
    assert metrics["loss"] == 0.0 and metrics["grad_norm"] == 0.0 and state.guard["skipped"] == 0


def test_scales_are_differentiable_where_there_is_no_weight():
    """0 times the derivative of 1 / 0 would be NaN for weights that are differentiated through."""
    total = lambda w: scales(Line(), {"fit": w, "size": jnp.ones(2)}, 0)["fit"]
    assert np.array_equal(jax.grad(total)(jnp.zeros(2)), [0, 0])
    close(jax.grad(total)(jnp.array([0.1, 0.1])), [-25.0, -25.0])


@pytest.mark.parametrize("microbatches", [2, 4])
def test_uneven_weights_over_microbatches(microbatches):
    """One global W: a mean of microbatch means differs as soon as the weights are uneven."""
    fit = [0.1, 0.9, 0.0, 0.8, 0.3, 0.7, 0.0, 0.5]
    one, many = Small(Line(0.3)), Small(Line(0.3), microbatches=microbatches)
    (_, seen), (_, also) = one.step(fit=fit), many.step(fit=fit)
    x = batch()["x"]
    close(one.gradients["slope"], (np.array(fit)[:, None] * x).sum(0) / np.sum(fit) + 0.3 * 2)
    chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-12)
    chex.assert_trees_all_close(also, seen, rtol=1e-12)


def test_clipping_is_global():
    """The norm of the whole gradient is clipped once, not that of each microbatch."""
    one, many = (Small(Line(), clip=0.1, microbatches=count) for count in (1, 4))
    x = np.array([[1.0, 0], [-1.0, 0.5], [3.0, 0], [0, 1.0]] * 2)
    for run in (one, many):
        _, metrics = run.step(x=x, fit=np.ones(ROWS))
        mean = x.mean(0)
        close(metrics["grad_norm"], np.linalg.norm(mean))
        close(run.gradients["slope"], 0.1 * mean / np.linalg.norm(mean))


def test_invalid_rows_have_no_weight():
    valid = np.arange(ROWS) != 3
    ours = batch()
    garbage = np.where(valid[:, None], ours["x"], 1e6)
    losses = [Small(Line(0.2)).step(x=x, valid=valid)[1]["loss"] for x in (ours["x"], garbage)]
    assert losses[0] == losses[1]
    fit = ours["fit"] * valid
    close(losses[0], (fit * ours["x"].sum(1)).sum() / fit.sum() + 0.2 * 2)


EVERY_ROW, BUT_ONE = np.ones(ROWS, bool), np.arange(ROWS) != 5


@pytest.mark.parametrize(("valid", "microbatches"), [(EVERY_ROW, 2), (BUT_ONE, 4)], ids=["full-2", "invalid-4"])
def test_coupled(microbatches, valid):
    """Two passes: loss, gradient (of slope and of the temperature that only couple uses), extras and collected rows."""
    one, many = Small(Pairs(0.1)), Small(Pairs(0.1), microbatches=microbatches)
    (after, seen), (state, also) = one.step(valid=valid), many.step(valid=valid)
    chex.assert_trees_all_close(many.gradients, one.gradients, rtol=1e-11)
    chex.assert_trees_all_close(also, seen, rtol=1e-11)
    chex.assert_trees_all_close(state.extras, after.extras, rtol=1e-12)
    assert all(np.abs(x).min() > 1e-3 for x in jax.tree.leaves(one.gradients))
    close(state.extras["mean"], 0.1 * batch()["x"].mean(0))


def test_coupled_gradient_is_that_of_the_direct_loss():
    """Against jax.grad of one plain function of the parameters, without passes or cotangents."""
    run, data, objective = Small(Pairs(0.1), microbatches=2), batch(), Pairs(0.1)
    _, metrics = run.step()
    observation = objective.observe_rows(random.per_row(random.stream(5, random.OBSERVE, 0), ROWS), data, 0)
    keys = random.per_row(random.stream(5, random.ENCODE, 0), ROWS)
    init = {"slope": jnp.ones(2), "scale": jnp.ones(())}

    def loss(params):
        extras = {"mean": jnp.zeros(2), "rows": jnp.zeros((ROWS, 2)), "steps": 0}
        alone = objective.encode(params, extras, observation, keys, 0, train=True)
        joint = objective.couple(params, extras, alone.representations, observation, 0)
        return joint.totals["fit"] / data["fit"].sum() + 0.1 * alone.totals["size"] / ROWS

    value, gradients = jax.value_and_grad(loss)(init)
    close(metrics["loss"], value)
    chex.assert_trees_all_close(run.gradients, gradients, rtol=1e-11)


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_rows_are_observed_and_collected_in_order(microbatches):
    """Row r's key is that of (seed, step, r) for any microbatches, and advance gets the rows in the batch's order."""
    run = Small(Line(noise=1.0), microbatches=microbatches)
    state, _ = run.step()
    keys = [jax.random.fold_in(random.stream(5, random.OBSERVE, 0), row) for row in range(ROWS)]
    noise = np.stack([jax.random.normal(key, (2,), jnp.float64) for key in keys])
    close(state.extras["rows"], batch()["x"] + noise)
    assert np.abs(noise[0] - noise[1]).max() > 1e-3


def test_running_mean_moves_once():
    run = Small(Line(), microbatches=4)
    state, _ = run.step(seed=0)
    close(state.extras["mean"], 0.1 * batch(seed=0)["x"].mean(0))
    state, _ = run.step(seed=1)
    close(state.extras["mean"], 0.09 * batch(seed=0)["x"].mean(0) + 0.1 * batch(seed=1)["x"].mean(0))


def test_coefficient_schedule():
    """Read at the step of the update, the first one being step 0."""
    run = Small(Line(coefficient=Ramp(2.0, 1.0, 4)))
    for step in range(6):
        before = np.asarray(run.state.params["slope"])
        _, metrics = run.step(fit=np.zeros(ROWS))
        close(metrics["term/size"], max(2.0 - step / 4, 1.0) * (before**2).sum())
        close(metrics["loss"], metrics["term/size"])


def test_metrics_are_total_over_weight():
    """A Mean is summed over microbatches before it is divided; per-row scores sum to each term's total."""
    run, ours = Small(Line(0.5), microbatches=4), batch()
    _, metrics = run.step()
    close(metrics["metric/first"], (ours["fit"] * ours["x"][:, 0]).sum() / ours["fit"].sum())
    close(metrics["per_row"]["fit"], ours["fit"] * ours["x"].sum(1))
    close(metrics["per_row"]["fit"].sum() / ours["fit"].sum(), metrics["term/fit"])
    close(0.5 * metrics["per_row"]["size"].sum() / ROWS, metrics["term/size"])
    close(metrics["loss"], metrics["term/fit"] + metrics["term/size"])
    assert metrics["lr"] == RATE


def test_one_trace_for_equal_objectives():
    """Objective, optimizer and options built twice are equal: the second pair finds the first one's program."""
    counted = jax.jit(chex.assert_max_traces(train_step, n=1), static_argnums=(0, 1, 2))
    for _ in range(2):
        run = Small(Line(Ramp(2.0, 1.0, 4)))
        counted(run.objective, run.optimizer, run.options, run.state, batch())
    other = Small(Line(Ramp(2.0, 1.0, 5)))
    with pytest.raises(AssertionError, match="traced"):
        counted(other.objective, other.optimizer, other.options, other.state, batch())


def test_many_steps_one_program():
    run = Small(Line())
    for step in range(4):
        run.step(seed=step)
    assert run.train.traces == 1


def test_donated_state_cannot_be_used_again():
    run = Small(Line())
    state = run.state
    run.step()
    with pytest.raises((RuntimeError, ValueError), match="deleted|donated"):
        np.asarray(state.params["slope"])
    with pytest.raises((RuntimeError, ValueError), match="deleted|donated"):
        run.train(state, batch())


def test_term_without_weights_or_score_refused():
    @dataclass(frozen=True)
    class Unweighted(Line):
        def observe(self, key, example, step):
            observation = super().observe(key, example, step)
            return replace(observation, weights={"fit": observation.weights["fit"]})

    @dataclass(frozen=True)
    class Unscored(Line):
        def encode(self, *args, **kwargs):
            outcome = super().encode(*args, **kwargs)
            return outcome.replace(totals={"fit": outcome.totals["fit"]})

    with pytest.raises(ValueError, match="no weights for its term 'size'"):
        Small(Unweighted()).step()
    with pytest.raises(ValueError, match=r"has terms \['fit', 'size'\] but scored \['fit'\]"):
        Small(Unscored()).step()


def test_a_term_is_scored_once():
    """Scored by encode and by couple, a term would train one loss and report another; two of one name would collapse."""

    @dataclass(frozen=True)
    class Twice(Pairs):
        def couple(self, *args):
            outcome = super().couple(*args)
            return outcome.replace(totals=outcome.totals | {"size": outcome.totals["fit"]})

    @dataclass(frozen=True)
    class Same(Line):
        @property
        def terms(self):
            return super().terms + super().terms[:1]

    with pytest.raises(ValueError, match=r"scores \['size'\] in encode and in couple"):
        Small(Twice()).step()
    with pytest.raises(ValueError, match="two terms named 'fit'"):
        Small(Same()).step()


def test_another_shape_from_advance_refused():
    """Without the check, selecting the new or the old leaf would broadcast it silently."""

    @dataclass(frozen=True)
    class Shrinks(Line):
        def advance(self, params, extras, collected, key, step):
            return params | {"slope": params["slope"][:1]}, extras

    with pytest.raises(AssertionError, match="slope"):
        Small(Shrinks()).step()
