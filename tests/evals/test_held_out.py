"""Held-out loss: global sums, keys independent of the step, padding without influence; continuations."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from contract.cases import CASES, ROWS, make_batch, prepare
from pretrainx.core.records import Observation, Term
from pretrainx.evals.continuation import Continuations
from pretrainx.evals.held_out import HeldOut, standard_error
from pretrainx.objectives.autoregressive import Autoregressive
from toys.views import view


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def run():
    with jax.enable_x64(True):
        return prepare("autoregressive")


def held_out(run, batches, **fields):
    return HeldOut(run.objective, run.options.rules, 0, [run.place(batch) for batch in batches], **fields)


@pytest.mark.xdist_group("held_out")
def test_mean_over_all_rows(run):
    """Two batches with different numbers of targets: the mean is over targets, not over batches."""
    batches = [make_batch(run.objective, seed=seed) for seed in (0, 1)]
    params = run.state.full_params()
    both = held_out(run, batches, bytes_of_text=1000)(params, {}, 0)
    each = [held_out(run, [batch])(params, {}, 0)["loss"] for batch in batches]
    weights = [((batch["tokens"][:, 1:] != 0) * batch["valid"][:, None]).sum() for batch in batches]
    assert weights[0] != weights[1]
    assert both["loss"] == pytest.approx(np.average(each, weights=weights), abs=1e-12)
    assert both["bits_per_byte"] == pytest.approx(both["loss"] * sum(weights) / math.log(2) / 1000, abs=1e-12)


@pytest.mark.xdist_group("held_out")
def test_the_error_of_the_mean(run):
    """From batches of unequal weight, by the ratio estimator written out; one batch tells none."""
    batches = [make_batch(run.objective, seed=seed) for seed in range(3)]
    params = run.state.full_params()
    each = np.array([held_out(run, [batch])(params, {}, 0)["loss"] for batch in batches])
    weights = np.array([((batch["tokens"][:, 1:] != 0) * batch["valid"][:, None]).sum() for batch in batches])
    share, mean = weights / weights.sum(), np.average(each, weights=weights)
    found = held_out(run, batches)(params, {}, 0)["loss_error"]
    assert found == pytest.approx(np.sqrt(3 / 2 * ((share * (each - mean)) ** 2).sum()), rel=1e-9) and found > 0
    assert "loss_error" not in held_out(run, batches[:1])(params, {}, 0)


@pytest.mark.parametrize(
    "shares, expected", [({"a": 1.0}, 0.25), ({"a": 1.0, "b": 0.5}, 0.0), ({"b": 0.5, "none": 1.0}, 0.25)]
)
def test_errors_of_terms_add_up_with_their_signs(shares, expected):
    """What one term lost in a batch another may have won; a term without weight adds nothing."""
    totals = ((1.0, 4.0), (2.0, 2.0))  # of terms a and b in two batches: means 1.5 and 3, beyond it -0.25 and 0.25 of a
    batches = [({"a": a, "b": b, "none": 0.0}, {"a": 1.0, "b": 1.0, "none": 0.0}) for a, b in totals]
    assert standard_error(batches, shares) == pytest.approx(2 * expected, abs=1e-12)


@pytest.mark.xdist_group("held_out")
def test_invalid_rows_count_for_nothing(run):
    params = run.state.full_params()
    batch = make_batch(run.objective)
    other = make_batch(run.objective)
    other["tokens"][2] = 7
    assert held_out(run, [batch])(params, {}, 0) == held_out(run, [other])(params, {}, 0)


@dataclasses.dataclass(frozen=True)
class Denoise(Autoregressive):
    """Draws in `observe`, so that its loss depends on the key."""

    terms = (Term("nll"),)

    def observe(self, key, example, step):
        clean = super().observe(key, example, step)
        return Observation({"tokens": view(key, clean.inputs["tokens"])}, clean.targets, clean.weights)


@pytest.mark.xdist_group("held_out")
def test_the_key_is_not_of_the_step(run):
    """The same state evaluated at two steps gives the same figure; another seed gives another."""
    inner = run.objective
    drawn = dataclasses.replace(run, objective=Denoise(inner.model, inner.vocabulary, inner.length))
    evaluate = held_out(drawn, [make_batch(inner)])
    params = run.state.full_params()
    assert evaluate(params, {}, 10) == evaluate(params, {}, 20)
    assert dataclasses.replace(evaluate, seed=1)(params, {}, 10) != evaluate(params, {}, 10)


@pytest.mark.xdist_group("held_out")
def test_stops_when_asked(run):
    asked = iter([False, True])
    evaluate = held_out(run, [make_batch(run.objective)] * 3)
    assert evaluate(run.state.full_params(), {}, 0, lambda: next(asked)) == {}


@pytest.mark.xdist_group("held_out")
def test_averaged_parameters_are_evaluated(run):
    state = run.state.replace(ema=jax.tree.map(lambda leaf: leaf * 0.5, run.state.params))
    kernel = lambda tree: np.asarray(tree["layers"]["mlp"]["up"]["kernel"])
    assert np.array_equal(kernel(state.full_params(averaged=True)), 0.5 * kernel(state.params))
    assert np.array_equal(kernel(state.replace(ema={}).full_params(averaged=True)), kernel(state.params))


@pytest.mark.xdist_group("held_out")
def test_coupled_objective():
    """The couple of a contrastive objective is scored, its temperature used, its metrics averaged."""
    clip = prepare("toy clip")
    values = held_out(clip, [make_batch(clip.objective)])(clip.state.full_params(), clip.state.extras, 0)
    assert 0 < values["loss"] < 5 and 0 <= values["metric/accuracy"] <= 1
    assert ROWS == 16 and "toy clip" in CASES


@pytest.mark.xdist_group("held_out")
def test_continuations(run):
    """Prompts stay, greedy text is the argmax of the logits, the same key gives the same text, padded ids never come."""
    ids = {"one": [5, 6, 7], "two": [9]}
    seen = []
    continuations = Continuations(
        run.objective, run.options.rules, 0, lambda p: np.array(ids[p]), lambda t: seen.append(list(t)) or str(t), 1,
        ("one", "two"), 12, 0.7,
    )  # fmt: skip
    params = run.state.full_params()
    text = continuations(params, {})
    assert text == continuations(params, {}) and "'one', greedy" in text and "temperature 0.7" in text
    greedy = seen[0]
    assert greedy[:3] == [5, 6, 7]
    for position in range(3, len(greedy)):
        row = np.array([greedy[:position] + [0] * (12 - position)], np.int32)
        logits = run.objective.outputs(params, {}, {"tokens": row}, ("logits",))["logits"]
        assert logits.shape[-1] == 50 and int(logits[0, position - 1].argmax()) == greedy[position]
