"""The intervals of metrics, and what they cost."""

import jax
import numpy as np
import pytest

from contract.cases import make_batch, prepare
from pretrainx.evals.held_out import score
from pretrainx.evals.task_scores import judge, ratio


def test_the_half_width_of_an_accuracy():
    hits = np.array([1.0] * 30 + [0.0] * 10)
    value, half_width = ratio(hits, np.ones(40))
    assert value == 0.75 and half_width == pytest.approx(1.96 * (0.75 * 0.25 / 40) ** 0.5)


def test_rows_without_weight_change_nothing():
    rng = np.random.default_rng(0)
    totals, weights = rng.random(20), rng.integers(1, 5, 20).astype(float)
    padded = [np.pad(each, (0, 7)) for each in (totals, weights)]
    assert ratio(*padded) == pytest.approx(ratio(totals, weights), abs=1e-12) and ratio(np.zeros(3), np.zeros(3)) == (
        0,
        0,
    )


def test_tokens_of_one_text_are_no_draws_of_their_own():
    """Ten texts of four words each, all right or all wrong: the interval is that of ten, not of forty."""
    right = np.array([1.0] * 6 + [0.0] * 4)
    assert ratio(4 * right, np.full(10, 4.0)) == pytest.approx(ratio(right, np.ones(10)))


def test_the_interval_covers():
    """Of 400 samples about 95 % hold the ratio that they were drawn with."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        weights = rng.integers(1, 6, 200)
        value, half_width = ratio(rng.binomial(weights, 0.7).astype(float), weights.astype(float))
        covered += abs(value - 0.7) <= half_width
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("case", ["token_classification", "text_to_text"])
def test_the_model_runs_once(case):
    """Judging each example costs no more than the loss alone."""
    with jax.enable_x64(True):
        run = prepare(case, noise=False)
        given = run.objective, run.options.rules, run.state.full_params(), run.state.extras
        given = *given, run.place(make_batch(run.objective)), jax.random.key(0), np.int32(0)
        judged, scored = (f.lower(*given).compile().cost_analysis()["flops"] for f in (judge, score))
    assert judged < 1.05 * scored
