"""Next-token prediction: the shift, the weights, the loss, the outputs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pretrainx.core import axes
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig, restarting
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.training import state as states

LENGTH, ROWS = 6, 3
VOCABULARY = Vocabulary(11, (("pad", 0), ("eos", 1)))
TOKENS = np.array([[3, 4, 5, 6, 7, 8, 9], [2, 3, 1, 0, 0, 0, 0], [9, 9, 1, 5, 5, 1, 2]], np.int32)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build():
    config = DecoderConfig(width=8, depth=1, heads=2, vocab_multiple=16)
    return AutoregressiveConfig().build(config, VOCABULARY, LENGTH, Precision("float64", "float64"))


@functools.cache
def params():
    return axes.unbox(jax.jit(build().init)(jax.random.key(0), states.example_batch(build(), ROWS)))


@functools.cache
def outputs(names):
    return jax.jit(lambda tree, inputs: build().outputs(tree, {}, inputs, names))(params(), {"tokens": TOKENS[:, :-1]})


def observed():
    objective, batch = build(), {"tokens": TOKENS, "valid": np.ones(ROWS, bool)}
    return objective.observe_rows(objective.row_keys(jax.random.key(0), batch), batch, 0)


def test_equal_configs_are_equal():
    assert build() == build() and hash(build()) == hash(build())


def test_targets_are_the_next_tokens():
    """Shifted once: the target of a position is the token after it. The end of a document is one, padding is not."""
    found = observed()
    np.testing.assert_array_equal(found.inputs["tokens"], TOKENS[:, :-1])
    np.testing.assert_array_equal(found.targets, TOKENS[:, 1:])
    np.testing.assert_array_equal(found.weights["nll"], TOKENS[:, 1:] != 0)
    assert found.weights["nll"][1].tolist() == [1, 1, 0, 0, 0, 0]


def test_loss():
    """-log p(target) summed where there is weight, from the outputs' logits."""
    objective, found = build(), observed()
    outcome = jax.jit(lambda tree: objective.encode(tree, {}, found, None, 0, train=False))(params())
    logits = np.asarray(outputs(("logits",))["logits"])
    assert logits.shape == (ROWS, LENGTH, 11)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    rows = [
        sum(-np.log(chances[row, t, TOKENS[row, t + 1]]) for t in range(LENGTH) if TOKENS[row, t + 1])
        for row in range(ROWS)
    ]
    np.testing.assert_allclose(outcome.per_row["nll"], rows, rtol=1e-12)
    np.testing.assert_allclose(outcome.totals["nll"], sum(rows), rtol=1e-12)


def test_outputs():
    made = outputs(("features", "hidden"))
    assert set(made) == {"features", "hidden"} and made["hidden"].shape == (ROWS, LENGTH, 8)
    np.testing.assert_allclose(made["features"], made["hidden"].mean(1))
    with pytest.raises(ValueError, match="no output 'logit': did you mean 'logits'"):
        outputs(("logit",))


@pytest.mark.parametrize(
    "change", [{}, {"positions": "rotary", "norm": "rms", "qk_norm": True}], ids=["gpt2", "modern"]
)
def test_packed_documents_are_separate_ones(change):
    """A row of two documents and padding has the losses of the documents alone: masks, positions and weights restart."""
    first, second = [2, 5, 4, 1], [7, 9, 3, 6, 1]
    config = dataclasses.replace(DecoderConfig(width=8, depth=2, heads=2, vocab_multiple=16), **change)
    packed = AutoregressiveConfig().build(config, VOCABULARY, 11, Precision("float64", "float64"), segmented=True)
    params = axes.unbox(jax.jit(packed.init)(jax.random.key(0), states.example_batch(packed, 1)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape), params)

    def losses(objective, **fields):
        batch = {name: np.asarray([row], np.int32) for name, row in fields.items()} | {"valid": np.ones(1, bool)}
        keys = objective.row_keys(jax.random.key(0), batch)
        seen = objective.observe_rows(keys, batch, 0)
        outcome = objective.encode(params, {}, seen, keys, 0, train=False)
        return np.array([outcome.totals["nll"], seen.weights["nll"].sum()])

    alone = lambda ids: losses(
        dataclasses.replace(packed, segmented=False, length=len(ids) - 1, loss=TokenLoss(1)), tokens=ids
    )
    together = losses(packed, tokens=first + second + [0] * 3, segments=[1] * 4 + [2] * 5 + [0] * 3)
    np.testing.assert_allclose(together, alone(first) + alone(second), rtol=1e-12)
    assert together[1] == len(first) + len(second) - 2


def test_restarting_positions():
    segments = np.array([4, 4, 4, 1, 2, 2, 0, 0])
    assert restarting(segments).tolist() == [0, 1, 2, 0, 0, 1, 0, 1]
