"""Membership inference: scores by hand, what tells nothing, and a model that knows its rows by heart."""

import jax
import numpy as np
import optax
import pytest

from pretrainx.core import axes
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evals import membership as scores
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS, LENGTH, SIZE = 48, 12, 40


def test_rates_by_counting():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 40), rng.integers(0, 7, 30)
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert scores.auc(members, others) == pytest.approx(np.mean(pairs))
    assert scores.auc(others, members) == pytest.approx(1 - np.mean(pairs))
    members, others = np.array([5.0, 3.0, 2.0, 1.0]), np.array([4.0, *np.zeros(199)])
    # Two of 200 may be above the threshold: it is the third highest of them.
    assert scores.true_positive_rate(members, others) == 1.0
    assert scores.true_positive_rate(members, others, rate=0.001) == 0.25  # none may: only 5 is above 4


def test_the_least_likely_tokens():
    log = np.array([[-1.0, -5.0, -3.0, -2.0, -9.0], [-4.0, -6.0, -1.0, -1.0, -1.0]])
    weights = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1.0]])
    mean, deviation = np.full_like(log, -2.0), np.full_like(log, 0.5)
    found = scores.of_tokens((log, mean, deviation, None, weights), 0.4)
    np.testing.assert_allclose(found["min_k"], [-5.0, -5.0])  # one of four, two of five
    np.testing.assert_allclose(found["min_k_plus"], [-6.0, -6.0])
    text = scores.compressed((log, None, None, np.full((2, 5), 7), weights), lambda ids: "ab" * len(ids))
    np.testing.assert_allclose(text, (log * weights).sum(1) / [len(scores.zlib.compress(b"ab" * n)) for n in (4, 5)])


def shadowed(effect, runs=8, rows=600, share=0.5):
    """(confidences of a target run, of shadow runs, which rows these have seen, which the target has)."""
    rng = np.random.default_rng(0)
    hard, inside, member = rng.normal(0, 3, rows), rng.random((runs, rows)) < share, np.arange(rows) < rows // 2
    if share:
        inside[0], inside[1] = True, False
    confidence = lambda seen: hard + effect * seen + rng.standard_normal(seen.shape)
    return confidence(member), confidence(inside), inside, member


def test_lira_tells_how_hard_a_row_is_from_whether_it_was_seen():
    target, shadows, inside, member = shadowed(2.0)
    ratios, online = scores.lira(target, shadows, inside)
    told = scores.auc(ratios[member], ratios[~member])
    assert online and told > 0.85 > 0.72 > scores.auc(target[member], target[~member])
    target, shadows, inside, member = shadowed(2.0, share=0.0)
    offline, online = scores.lira(target, shadows, inside)
    assert not online and scores.auc(offline[member], offline[~member]) > 0.85
    target, shadows, inside, member = shadowed(0.0)
    ratios, _ = scores.lira(target, shadows, inside)
    assert abs(scores.auc(ratios[member], ratios[~member]) - 0.5) < 0.08
    ratios, _ = scores.lira(target, shadows, inside | (np.arange(600) == 5))
    assert np.flatnonzero(np.isnan(ratios)).tolist() == [5]  # every shadow run has seen it


def test_what_sees_no_model_tells_only_other_distributions():
    rng = np.random.default_rng(1)
    ones = lambda tokens: np.ones(tokens.shape)
    draw = lambda low, high: scores.words(tokens := rng.integers(low, high, (300, 20)), ones(tokens))
    assert abs(scores.blind(draw(0, 500), draw(0, 500)) - 0.5) < 0.07
    assert scores.blind(draw(0, 500), draw(100, 600)) > 0.75
    first = scores.words(np.array([[3, 3, 9]]), np.array([[1, 1, 0]]))
    assert first.max() == 1 and (first > 0).sum() == 1


@pytest.fixture(scope="module")
def learnt_by_heart():
    """(objective, rules, parameters, rows that it was trained on again and again, other rows of the same kind)."""
    vocabulary = Vocabulary(SIZE, (("pad", 0), ("eos", 1)))
    config = DecoderConfig(width=32, depth=1, heads=2, vocab_multiple=8, unroll=0)
    objective = Autoregressive(Decoder(config, SIZE, LENGTH, Precision()), vocabulary, LENGTH)
    rng = np.random.default_rng(0)
    make = lambda: {
        "tokens": rng.integers(2, SIZE, (ROWS, LENGTH + 1)).astype(np.int32),
        "valid": np.ones(ROWS, bool),
    }
    members, others = make(), make()
    optimizer = optax.adam(1e-2)

    @jax.jit
    def train():
        params = axes.unbox(objective.init(jax.random.key(0), members))
        observation = objective.observe_rows(objective.row_keys(jax.random.key(0), members), members, 0)
        loss = lambda params: objective.encode(params, {}, observation, None, 0, train=False).totals["nll"] / ROWS

        def step(state, _):
            params, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(params), moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=150)[0][0]

    return objective, Rules(make_mesh(MeshConfig(), jax.devices()[:1])), train(), members, others, make()


def asked(run, function, *rows):
    objective, rules, params, *_ = run
    return [scores.over(function, objective, rules, params, {}, [each], 0) for each in rows]


def test_a_model_that_knows_its_rows_by_heart_is_found_out(learnt_by_heart):
    *_, members, others, further = learnt_by_heart
    inside, outside, neither = asked(learnt_by_heart, scores.row_losses, members, others, further)
    assert scores.auc(-inside, -outside) > 0.99 and scores.true_positive_rate(-inside, -outside) > 0.9
    assert abs(scores.auc(-neither, -outside) - 0.5) < 0.18  # 1.96 standard errors of 48 against 48 rows are 0.12
    for name in ("min_k", "min_k_plus"):
        tokens = asked(learnt_by_heart, scores.token_scores, members, others)
        inside, outside = (scores.of_tokens(each, 0.2)[name] for each in tokens)
        assert scores.auc(inside, outside) > 0.95, name


def test_tokens_are_measured_against_the_whole_distribution(learnt_by_heart):
    """Mean and deviation of log p under p; log p of the token sums to the row's loss."""
    objective, _, params, members, *_ = learnt_by_heart
    ((log, mean, deviation, targets, weights),) = asked(learnt_by_heart, scores.token_scores, members)
    logits = objective.outputs(params, {}, {"tokens": members["tokens"][:, :-1]}, ("logits",))["logits"]
    every = np.asarray(jax.nn.log_softmax(logits), np.float64)
    p = np.exp(every)
    np.testing.assert_allclose(mean, (p * every).sum(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(deviation**2, (p * every**2).sum(-1) - (p * every).sum(-1) ** 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(targets, members["tokens"][:, 1:])
    (losses,) = asked(learnt_by_heart, scores.row_losses, members)
    np.testing.assert_allclose(losses, -(log * weights).mean(1), rtol=1e-3)
