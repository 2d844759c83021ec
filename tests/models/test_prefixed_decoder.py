"""A decoder with a source: what the plain decoder makes of each row without its padding; the cache; features of the source."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from pretrainx.core.errors import ConfigError
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.prefixed_decoder import built

SIZE = dict(width=24, depth=2, heads=4, mlp_width=20, vocab_multiple=8)
CONFIGS = {
    "gpt2": DecoderConfig(**SIZE),
    "llama": DecoderConfig(
        **SIZE, positions="rotary", norm="rms", bias=False, kv_heads=2, activation="silu", gated=True, tied=False
    ),
}
RNG = np.random.default_rng(0)
WIDTH, LENGTH = 9, 6
SOURCE, TOKENS = RNG.integers(0, 50, (3, WIDTH)), RNG.integers(0, 50, (3, LENGTH))
COUNTS = np.array([9, 4, 1])
REAL = (np.arange(WIDTH) < COUNTS[:, None]).astype(np.int32)
FLOAT64 = Precision("float64", "float64")
each = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(name):
    """(the decoder with a source, a plain one, parameters with noise)"""
    model = built(CONFIGS[name], 50, WIDTH, LENGTH, FLOAT64)
    plain = CONFIGS[name].build(50, WIDTH + LENGTH, FLOAT64)
    params = meta.unbox(jax.jit(plain.init)(jax.random.key(0), TOKENS)["params"])
    rng = np.random.default_rng(1)
    return model, plain, jax.tree.map(lambda x: x + 0.2 * rng.standard_normal(x.shape), params)


@jax.jit
def logits_of_llama(params, source):
    """[B, T, 50], those of ids that exist"""
    return made("llama")[0].apply({"params": params}, source, TOKENS, None, REAL)[..., :50]


@each
def test_equal_to_the_rows_without_padding(name):
    """The prefix seen both ways, then causally; positions go on behind the last real token of the source."""
    model, plain, params = made(name)
    run = lambda method, *args: plain.apply({"params": params}, *args, method=method)
    found = jax.jit(lambda: model.apply({"params": params}, SOURCE, TOKENS, None, REAL))()
    assert found.shape == (3, LENGTH, 56)

    @functools.partial(jax.jit, static_argnums=1)
    def alone(row, count):
        seen = (jnp.arange(row.shape[1]) < count)[None]
        return run("head", run("blocks", run("embed", row), None, None, None, seen))

    for number, count in enumerate(COUNTS.tolist()):
        row = np.concatenate([SOURCE[number, :count], TOKENS[number]])[None]
        np.testing.assert_allclose(found[number], alone(row, count)[0, count:], rtol=1e-9, atol=1e-12)


def test_padding_of_the_source_is_not_read():
    params = made("llama")[2]
    changed = np.where(REAL > 0, SOURCE, 7)
    np.testing.assert_array_equal(logits_of_llama(params, SOURCE), logits_of_llama(params, changed))
    other = SOURCE.copy()
    other[:, 0] = (other[:, 0] + 1) % 50
    assert np.abs(logits_of_llama(params, SOURCE) - logits_of_llama(params, other)).min(-1).max() > 0


@each
def test_decoding_with_a_cache_is_the_whole_row(name):
    """In pieces of one and of several tokens."""
    model, _, params = made(name)
    run = lambda method, *args: model.apply({"params": params}, *args, method=method)

    @jax.jit
    def decoded():
        cache, parts = run("start", run("embed", SOURCE), jnp.asarray(REAL), LENGTH), []
        for first, last in ((0, 3), (3, 4), (4, 6)):
            logits, cache = run("decode", jnp.asarray(TOKENS[:, first:last]), cache)
            parts.append(logits)
        return jnp.concatenate(parts, 1)

    whole = jax.jit(lambda: model.apply({"params": params}, SOURCE, TOKENS, None, REAL))()
    np.testing.assert_allclose(decoded(), whole, rtol=1e-9, atol=1e-12)


def test_features_are_of_the_source_alone():
    model, plain, params = made("gpt2")
    run = lambda of, method, *args: of.apply({"params": params}, *args, method=method)

    @jax.jit
    def both():
        found = run(model, "source_hidden", run(model, "embed", SOURCE), None, jnp.asarray(REAL))
        row = SOURCE[1:2, :4]
        seen = jnp.ones((1, 4), bool)
        return found, run(plain, "hidden", run(plain, "blocks", run(plain, "embed", row), None, None, None, seen))

    found, alone = both()
    np.testing.assert_allclose(found[1, :4], alone[0], rtol=1e-9, atol=1e-12)


def test_more_tokens_than_positions_are_refused():
    model, _, params = made("gpt2")
    with pytest.raises(ValueError, match="position table has 15 rows"):
        model.apply({"params": params}, SOURCE, np.concatenate([TOKENS, TOKENS], 1), None, REAL)


def test_source_and_targets_lose_other_entries():
    config = dataclasses.replace(CONFIGS["llama"], dropout=0.5)
    model, params, keys = (
        built(config, 50, WIDTH, LENGTH, FLOAT64),
        made("llama")[2],
        jax.random.split(jax.random.key(0), 3),
    )
    run = lambda method, *args: model.apply({"params": params}, *args, method=method)
    same = np.full((3, LENGTH), 7)
    source, targets = run("embed", same, keys), run("embed_targets", same, keys, jnp.asarray(REAL))
    assert (source == 0).mean() == pytest.approx(0.5, abs=0.1) and ((source == 0) != (targets == 0)).mean() > 0.3


def test_a_window_is_refused():
    with pytest.raises(ConfigError, match="read as a whole") as caught:
        built(DecoderConfig(**SIZE, window=3), 50, 4, 4, FLOAT64)
    assert caught.value.where == "config.model.window"
