"""Prefix language modelling with a decoder and with an encoder-decoder: the split, the weights, who sees whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.training import state as states

LENGTH, MODE = 8, 2
VOCABULARY = Vocabulary(40, (("pad", 0), ("eos", 1), ("sequential", MODE)))
DECODER = DecoderConfig(width=8, depth=2, heads=2, vocab_multiple=16, initial_std=0.3)
BOTH = EncoderDecoderConfig(width=8, depth=1, heads=2, vocab_multiple=16)
MODELS = {"decoder": DECODER, "encoder_decoder": BOTH}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(model, mode="", segmented=False):
    return PrefixLmConfig(mode).build(model, VOCABULARY, LENGTH, Precision("float64", "float64"), segmented)


@functools.partial(jax.jit, static_argnums=(0, 1))
def observed(objective, count, length):
    """One row of numbers 10, 11, ... with many keys."""
    width = objective.reads.width
    tokens = jnp.where(jnp.arange(width) < length, 10 + jnp.arange(width), 0).astype(jnp.int32)
    row = {"tokens": tokens, "length": jnp.int32(length)}
    return jax.vmap(lambda key: objective.observe(key, row, 0))(jax.random.split(jax.random.key(0), count))


@pytest.mark.parametrize("mode", ["", "sequential"])
@pytest.mark.parametrize("model", MODELS)
def test_the_split_is_uniform(model, mode):
    """Over the text, each part with a token at least; a mode token in front takes one token's place."""
    objective = build(MODELS[model], mode)
    decodes, front = model == "decoder", bool(mode)
    width = objective.reads.width
    assert width == LENGTH + 1 - front and objective.reads.overlap == decodes
    for length in (width, 5):
        seen = jax.tree.map(np.asarray, observed(objective, 4000, length))
        split = seen.inputs["prefix" if decodes else "source_length"] - front
        last = length - 2 if decodes else length - 1  # rows of a decoder hold a target beyond their T tokens
        counts = np.bincount(split, minlength=last + 1)
        assert split.min() == 1 and split.max() == last and stats.chisquare(counts[1:]).pvalue > 1e-4


@pytest.mark.parametrize("mode", ["", "sequential"])
def test_decoder_rows(mode):
    """What follows the prefix is predicted, its first token too; the prefix, the mode token and padding are not."""
    objective, front = build(DECODER, mode), [MODE] if mode else []
    for length in (objective.reads.width, 5, 2, 1, 0):
        seen = jax.tree.map(np.asarray, observed(objective, 50, length))
        row = [*front, *range(10, 10 + length)]
        row += [0] * (LENGTH + 1 - len(row))
        for each in range(50):
            assert seen.inputs["tokens"][each].tolist() == row[:-1] and seen.targets[each].tolist() == row[1:]
            split = seen.inputs["prefix"][each]
            expected = [float(split <= place < len(front) + length) for place in range(1, LENGTH + 1)]
            assert seen.weights["nll"][each].tolist() == expected
            assert sum(expected) == max(length + len(front) - split, 0)


@pytest.mark.parametrize("mode", ["", "sequential"])
def test_encoder_decoder_rows(mode):
    """Source and targets are the row, cut in two."""
    objective, front = build(BOTH, mode), [MODE] if mode else []
    for length in (objective.reads.width, 5, 2):
        seen = jax.tree.map(np.asarray, observed(objective, 50, length))
        for each in range(50):
            source = seen.inputs["source"][each, : seen.inputs["source_length"][each]].tolist()
            targets = seen.targets[each, seen.weights["nll"][each] > 0].tolist()
            assert targets and source + targets == [*front, *range(10, 10 + length)]
            assert seen.targets[each, : len(targets)].tolist() == targets
            assert seen.inputs["tokens"][each, : len(targets)].tolist() == [0, *targets[:-1]]


@functools.cache
def params():
    objective = build(DECODER)
    return axes.unbox(jax.jit(objective.init)(jax.random.key(0), states.example_batch(objective, 1)))


@jax.jit
def hidden(tree, inputs):
    return build(DECODER).outputs(tree, {}, inputs, ("hidden",))["hidden"]


def test_who_sees_whom():
    """Tokens of the prefix see each other both ways, those after it look back only: by changing one token at a time."""
    prefix = 4
    tokens = np.arange(10, 10 + LENGTH)
    rows = np.tile(tokens, (LENGTH + 1, 1)).astype(np.int32)
    rows[np.arange(LENGTH), np.arange(LENGTH)] = 30  # row s has another token at place s, the last row has none
    for given in (prefix, None):
        inputs = {"tokens": rows} | ({} if given is None else {"prefix": np.full(LENGTH + 1, given, np.int32)})
        made = np.asarray(hidden(params(), inputs))
        sees = np.abs(made[:-1] - made[-1]).max(-1).T > 1e-9  # [t, s]: place t changes with token s
        expected = np.tri(LENGTH, dtype=bool)
        expected[:, : given or 0] = True
        np.testing.assert_array_equal(sees, expected)


def test_the_loss_reads_the_prefix():
    """`encode` scores with the prefix that `observe` drew: the same as from the outputs' logits with it, not without."""
    objective, tree = build(DECODER), params()
    seen = observed(objective, 6, LENGTH + 1)
    total = jax.jit(lambda: objective.encode(tree, {}, seen, None, 0, train=False).totals["nll"])()

    def by_hand(inputs):
        log = jax.nn.log_softmax(objective.outputs(tree, {}, inputs, ("logits",))["logits"])
        nll = -jnp.take_along_axis(log, seen.targets[..., None], -1)[..., 0]
        return (nll * seen.weights["nll"]).sum()

    by_hand = jax.jit(by_hand)
    np.testing.assert_allclose(total, by_hand(seen.inputs), rtol=1e-12)
    assert abs(total - by_hand({"tokens": seen.inputs["tokens"]})) > 1e-4


@jax.jit
def decoded(tree, tokens):
    """Logits of a prompt of three tokens, read at once, and of what follows it: two at once, then one."""
    objective = build(DECODER)
    cache, parts = objective.cache(tree, {}, *tokens.shape), []
    for first, last in ((0, 3), (3, 5), (5, 6)):
        logits, cache = objective.decode(tree, {}, tokens[:, first:last], cache)
        parts.append(logits)
    return jnp.concatenate(parts, axis=1)


def test_a_prompt_is_the_prefix():
    """What is read first is read both ways, as in training; after it only causally."""
    tokens = np.array([[11, 12, 13, 14, 15, 16], [20, 21, 22, 9, 8, 7]], np.int32)
    inputs = {"tokens": tokens, "prefix": np.full(2, 3, np.int32)}
    expected = jax.jit(lambda tree: build(DECODER).outputs(tree, {}, inputs, ("logits",))["logits"])(params())
    np.testing.assert_allclose(decoded(params(), tokens), expected, rtol=1e-9, atol=1e-12)


def test_the_mode_is_a_part_of_the_prefix():
    """Decoding reads the mode token, which nobody has to type, together with the prompt: as in training it sees all of it."""
    objective, tree = build(DECODER, "sequential"), params()
    tokens = np.array([[11, 12, 13, 14]], np.int32)

    def decoded():
        cache = objective.cache(tree, {}, 1, 4)
        first, cache = objective.decode(tree, {}, tokens[:, :3], cache)
        return jnp.concatenate([first, objective.decode(tree, {}, tokens[:, 3:], cache)[0]], axis=1)

    whole = {"tokens": np.array([[MODE, 11, 12, 13, 14]], np.int32)}
    outputs = lambda prefix: objective.outputs(tree, {}, whole | {"prefix": np.full(1, prefix, np.int32)}, ("logits",))[
        "logits"
    ][:, 1:]
    found, expected, alone = jax.jit(lambda: (decoded(), outputs(4), outputs(1)))()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected - alone).max() > 1e-4  # that the mode sees the prompt is seen in the logits


def test_refusals():
    for model in (DECODER, BOTH):
        with pytest.raises(ConfigError, match="several documents") as caught:
            build(model, segmented=True)
        assert caught.value.where == "config.data.packing"
    with pytest.raises(ConfigError, match="predicts the next token"):
        build(object())
    with pytest.raises(ConfigError, match="no special token 'nothing'"):
        build(DECODER, "nothing")
