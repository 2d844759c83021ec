"""Pseudo-perplexity: each token hidden alone, by hand; marks and padding are not predicted; batches change nothing."""

import math

import jax
import numpy as np
import pytest

from evals.families import TOKENIZER, batch, made, rules
from pretrainx.evals.pseudo_perplexity import PseudoPerplexity, log_probabilities


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_each_token_is_hidden_alone():
    objective, params = made("masked_lm")
    given = batch(objective, rows=3)
    given["tokens"][1, 20:] = objective.vocabulary.special("pad")
    given["valid"][2] = False
    measure = PseudoPerplexity(objective, rules(), 0, [given], objective.vocabulary, TOKENIZER.bytes_per_token)
    found = measure(params, {})
    run = jax.jit(lambda inputs: objective.outputs(params, {}, inputs, ("logits",))["logits"][0])
    special, total, count = objective.vocabulary.special, 0.0, 0
    for row, size in ((0, given["tokens"].shape[1]), (1, 20)):
        framed = np.full(objective.length, special("pad"))
        framed[: size + 2] = [special("cls"), *given["tokens"][row, :size], special("sep")]
        for place in range(1, size + 1):
            hidden = np.where(np.arange(len(framed)) == place, special("mask"), framed)
            logits = np.asarray(run({"tokens": hidden[None]}), np.float64)[place]
            total += np.log(np.exp(logits).sum()) - logits[framed[place]]
            count += 1
    assert found["tokens"] == count == given["tokens"].shape[1] + 20
    assert found["nll"] == pytest.approx(total / count, rel=1e-9)
    assert found["perplexity"] == pytest.approx(math.exp(total / count))
    assert found["pseudo_bits_per_byte"] == pytest.approx(total / math.log(2) / count)  # a byte is a token here
    # Only the first rows are read.
    assert (
        PseudoPerplexity(objective, rules(), 0, [given], objective.vocabulary, TOKENIZER.bytes_per_token, rows=1)(
            params, {}
        )["tokens"]
        == given["tokens"].shape[1]
    )


def test_batches_of_copies_change_nothing():
    objective, params = made("masked_lm")
    rng = np.random.default_rng(0)
    tokens = rng.integers(8, 200, (2, 12)).astype(np.int32)
    inputs = {"tokens": tokens, "segments": np.ones_like(tokens)}
    rows, places = np.array([0, 0, 1, 1, 0]), np.array([3, 4, 0, 11, 3])
    mask, size = objective.vocabulary.special("mask"), objective.vocabulary.size
    run = lambda copies: log_probabilities(
        objective, rules(), mask, size, params, {}, inputs, rows, places, copies=copies
    )
    whole = run(8)
    np.testing.assert_allclose(run(2), whole, rtol=1e-12)
    assert whole[0] == whole[4] and len(set(whole.round(9))) == 4
