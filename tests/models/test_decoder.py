"""The decoder: causality, its padded vocabulary, its three parts, and that scan, unroll and remat change nothing."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.sizes import decoder_parameters
from pretrainx.objectives.cross_entropy import token_nll

GPT2 = DecoderConfig(width=16, depth=2, heads=2, vocab_multiple=16)
MODERN = replace(
    GPT2, positions="rotary", norm="rms", activation="relu_squared", qk_norm=True, bias=False, mlp_width=48
)
VOCAB, ROWS, LENGTH = 21, 2, 7
BOTH = pytest.mark.parametrize("config", [GPT2, MODERN], ids=["gpt2", "modern"])
pytestmark = pytest.mark.xdist_group("decoder")  # the tests share compiled programs


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def count(tree):
    return sum(leaf.size for _, leaf in paths.leaves(tree))


def build(config):
    return Decoder(config, VOCAB, LENGTH, Precision("float64", "float64"))


@functools.cache
def params(config, noise=0.1):
    """Initial parameters + N(0, noise), so that biases and norms matter."""
    made = axes.unbox(jax.jit(build(config).init)(jax.random.key(0), TOKENS)["params"])
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + noise * rng.standard_normal(x.shape), made)


TOKENS = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32)


@functools.cache
def program(config):
    model = build(config)
    return jax.jit(lambda tree, tokens, keys: model.apply({"params": tree}, tokens, keys))


def run(config, tokens=TOKENS, keys=None, tree=None):
    return np.asarray(program(config)(params(config) if tree is None else tree, tokens, keys))


@BOTH
def test_no_look_ahead(config):
    """Another token j leaves every logit before j bitwise as it was, and changes those at j."""
    logits = run(config)
    for j in range(LENGTH):
        tokens = TOKENS.copy()
        tokens[:, j] = (tokens[:, j] + 1) % VOCAB
        other = run(config, tokens)
        assert np.array_equal(other[:, :j], logits[:, :j]), j
        assert (np.abs(other[:, j:, :VOCAB] - logits[:, j:, :VOCAB]).max((0, 2)) > 1e-6).all(), j


@BOTH
def test_loss_at_start(config):
    """Near ln V, not ln of the padded size: ln 21 = 3.045, ln 32 = 3.466."""
    logits = run(config, tree=params(config, 0.0))
    targets = (TOKENS + 1) % VOCAB  # not the inputs: a tied head starts by preferring those
    assert abs(float(token_nll(logits, jnp.asarray(targets)).mean()) - np.log(VOCAB)) < 0.1


@BOTH
def test_padded_vocabulary(config):
    """Columns beyond the vocabulary have probability 0 and their rows of the table gradient 0."""
    logits = run(config)
    assert logits.shape == (ROWS, LENGTH, 32) and np.isfinite(logits).all()
    probabilities = np.asarray(jax.nn.softmax(logits, -1))
    assert not probabilities[..., VOCAB:].any() and np.allclose(probabilities[..., :VOCAB].sum(-1), 1, atol=1e-12)
    loss = lambda tree: token_nll(program(config)(tree, TOKENS, None), jnp.asarray(TOKENS)).sum()
    gradient = jax.jit(jax.grad(loss))(params(config))["token"]["table"]
    assert not gradient[VOCAB:].any() and (np.abs(gradient[:VOCAB]).max(1) > 0).all()


@BOTH
def test_the_call_is_its_parts(config):
    model = build(config)
    run_part = jax.jit(lambda tree, x, method: model.apply({"params": tree}, x, method=method), static_argnums=2)
    part = lambda x, method: run_part(params(config), x, method)
    x = part(part(TOKENS, "embed"), "blocks")
    np.testing.assert_allclose(part(x, "head"), run(config), rtol=1e-12)
    table = params(config)["token"]["table"]
    np.testing.assert_allclose(part(x, "head")[..., :VOCAB], part(x, "hidden") @ table[:VOCAB].T, rtol=1e-12)


@functools.cache
def with_dropout(config):
    """(loss, gradients) with dropout on."""
    keys = jax.random.split(jax.random.key(5), ROWS)
    loss = lambda tree: token_nll(program(config)(tree, TOKENS, keys), jnp.asarray(TOKENS)).mean()
    return jax.jit(jax.value_and_grad(loss))(params(config))


in_ci = lambda **change: pytest.param(change, marks=pytest.mark.slow)


@pytest.mark.parametrize("change", [{"remat": "full", "unroll": 0}, in_ci(remat="full"), in_ci(unroll=2)], ids=str)
def test_unroll_and_remat_change_nothing(change):
    """Same loss and same gradients of the same parameters, dropout included."""
    config = replace(MODERN, dropout=0.2, bias=True)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
    jax.tree.map(same, with_dropout(config), with_dropout(replace(config, **change)))


def masks(config, keys, rows=ROWS):
    """Which entries of (embeddings, attention and mlp branch of each layer) dropout leaves, from runs of its sites."""
    from pretrainx.models import decoder, stack

    found, original = {}, decoder.dropout

    def spy(x, rate, keys, site):
        note = lambda site, kept: found.__setitem__(int(site), np.asarray(kept))
        jax.debug.callback(note, site, original(jnp.ones_like(x), rate, keys, site) != 0)
        return original(x, rate, keys, site)

    decoder.dropout = stack.dropout = spy
    try:
        jax.jit(lambda tree: build(config).apply({"params": tree}, TOKENS[:rows], keys))(params(config))
        jax.effects_barrier()
    finally:
        decoder.dropout = stack.dropout = original
    return found


def test_dropout_masks():
    """All sites of all layers and all rows draw masks of their own; a row's masks do not depend on the batch."""
    config = replace(GPT2, dropout=0.3)
    keys = jax.random.split(jax.random.key(5), ROWS)
    found = masks(config, keys)
    assert set(found) == {0, 1, 2, 3, 4}, "two in each of two layers, one at the embeddings"
    drawn = [mask[row] for mask in found.values() for row in range(ROWS)]
    for i, one in enumerate(drawn):
        assert 0.5 < one.mean() < 0.9
        assert not any(np.array_equal(one, other) for other in drawn[:i])
    alone = masks(config, keys[:1], rows=1)
    assert all(np.array_equal(alone[site][0], found[site][0]) for site in found)


def test_dropout_of_a_row():
    """Logits of a row under dropout are those of the row alone; without keys there is none."""
    config = replace(GPT2, dropout=0.3)
    keys = jax.random.split(jax.random.key(5), ROWS)
    logits = run(config, keys=keys)
    np.testing.assert_allclose(run(config, TOKENS[1:], keys[1:])[0], logits[1], rtol=1e-10)
    same = np.repeat(TOKENS[:1], 2, 0)
    rows = run(config, same, keys)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    np.testing.assert_array_equal(run(config), run(replace(config, dropout=0.0)))
    assert np.abs(logits - run(config)).max() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        MODERN,
        replace(GPT2, bias=False),
        replace(GPT2, norm="rms"),
        replace(MODERN, bias=True),
        replace(GPT2, depth=5),
    ],
    ids=str,
)
def test_parameter_count(config):
    """The formula is the tree's count, less the padding rows of the table."""
    tree = jax.eval_shape(build(config).init, jax.random.key(0), TOKENS)["params"]
    assert count(axes.unbox(tree)) - (32 - VOCAB) * config.width == decoder_parameters(config, VOCAB, LENGTH)


def test_gpt2_small_has_its_published_size():
    config = DecoderConfig(width=768, depth=12, heads=12)
    model = config.build(50257, 1024, Precision())
    tree = axes.unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1024), jnp.int32))["params"])
    assert tree["token"]["table"].shape == (50304, 768)
    assert count(tree) - (50304 - 50257) * 768 == 124_439_808
    assert decoder_parameters(config, 50257, 1024) == 124_439_808


def test_too_long():
    """A lookup beyond the position table would be clamped silently."""
    longer = np.zeros((1, LENGTH + 1), np.int32)
    with pytest.raises(ValueError, match="8 tokens, but the position table has 7 rows"):
        run(GPT2, longer)
    assert run(MODERN, longer).shape == (1, LENGTH + 1, 32)
    with pytest.raises(ConfigError, match="longer than the position table"):
        replace(GPT2, max_length=7).build(VOCAB, 8, Precision())


def test_equal_models_are_equal():
    assert build(GPT2) == build(replace(GPT2)) and hash(build(GPT2)) == hash(build(replace(GPT2)))
    assert build(GPT2) != build(MODERN)
    with pytest.raises(ConfigError, match="heads do not divide the width"):
        DecoderConfig(width=10, heads=4)
