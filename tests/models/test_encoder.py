"""The encoder: what sees what, padding, segments, its three entries, habits of BERT, RoBERTa and modern forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from pretrainx.core.errors import ConfigError
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import Precision, Sinusoids

SIZE = dict(width=24, depth=2, heads=3, mlp_width=20, vocab_multiple=8)
CONFIGS = {
    "bert": EncoderConfig(**SIZE, types=2, pooler=True),
    "roberta": EncoderConfig(**SIZE, types=1, position_offset=2, norm_epsilon=1e-5),
    "modern": EncoderConfig(
        **SIZE | dict(heads=2),
        norm_first=True,
        positions="rotary",
        norm="rms",
        norm_epsilon=1e-6,
        gated=True,
        activation="silu",
        bias=False,
        embedding_norm=False,
        head="linear",
    ),
    "crammed": EncoderConfig(**SIZE, norm_first=True, positions="sinusoidal", gated=True, bias=False, tied=False),
}
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 9))
each = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name):
    return CONFIGS[name].build(50, 12, Precision("float64", "float64"))


@functools.cache
def params(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        tree = meta.unbox(jax.jit(build(name).init)(jax.random.key(0), TOKENS)["params"])
        return jax.tree.map(lambda x: x + 0.2 * rng.standard_normal(x.shape), tree)


def logits(name, tokens=TOKENS, positions=None, types=None, segments=None):
    return np.asarray(_logits(name, params(name), tokens, positions, types, segments))


@functools.partial(jax.jit, static_argnums=0)
def _logits(name, tree, tokens, positions, types, segments):
    run = lambda method, *args: build(name).apply({"params": tree}, *args, method=method)
    x = run("embed", tokens, None, positions, types)
    return run("head", run("blocks", x, None, positions, segments))[..., :50]


@each
def test_head_of_blocks_of_embed_is_the_call(name):
    whole = jax.jit(lambda tree: build(name).apply({"params": tree}, TOKENS))(params(name))
    assert whole.shape == (3, 9, 56) and (whole[..., 50:] < -1e100).all()
    np.testing.assert_allclose(logits(name), whole[..., :50], rtol=1e-12, atol=1e-12)


@each
def test_every_token_sees_every_other(name):
    other = TOKENS.copy()
    other[:, -1] = (other[:, -1] + 1) % 50
    assert (np.abs(logits(name, other) - logits(name)).max(-1) > 1e-6).all()


@each
def test_padding_and_length_change_nothing(name):
    """What stands in segment 0 is not seen, and a row alone is the row in a longer one."""
    segments = (np.arange(9) < 6).astype(np.int32)[None].repeat(3, 0)
    garbage = np.where(segments, TOKENS, 7)
    full, masked = logits(name, TOKENS, segments=segments), logits(name, garbage, segments=segments)
    np.testing.assert_array_equal(full[:, :6], masked[:, :6])
    np.testing.assert_allclose(logits(name, TOKENS[:, :6]), full[:, :6], rtol=1e-9, atol=1e-11)


@each
def test_documents_of_a_row_are_apart(name):
    """Two documents in a row, positions restarting: as each alone."""
    segments = np.array([[1] * 5 + [2] * 4] * 3)
    positions = np.array([[*range(5), *range(4)]] * 3)
    packed = logits(name, TOKENS, segments=segments, positions=positions)
    for part in (slice(0, 5), slice(5, 9)):
        np.testing.assert_allclose(packed[:, part], logits(name, TOKENS[:, part]), rtol=1e-9, atol=1e-11)


def test_segment_types():
    ones = np.ones_like(TOKENS)
    assert np.abs(logits("bert", types=ones) - logits("bert")).max() > 1e-3
    np.testing.assert_array_equal(logits("bert", types=0 * ones), logits("bert"))


def test_post_norm_by_hand():
    """x = norm(x + branch(x)): the output of a post-LN encoder is normalised, its first block by hand."""
    tree, model = params("bert"), build("bert")
    x = model.apply({"params": tree}, TOKENS, method="embed")
    norm = lambda x, leaf, i: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * leaf["scale"][i] + leaf["bias"][i]
    )
    layers = tree["layers"]
    for i in range(2):
        kernel = lambda name, i=i: (layers["attention"][name]["kernel"][i], layers["attention"][name]["bias"][i])
        query, key, value = (
            jnp.einsum("btd,dhk->bthk", x, kernel(n)[0]) + kernel(n)[1] for n in ("query", "key", "value")
        )
        weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", query, key) / np.sqrt(8), -1)
        out, bias = kernel("out")
        y = jnp.einsum("bhts,bshk,hkd->btd", weights, value, out) + bias
        x = norm(x + y, layers["attention_norm"], i)
        mlp = layers["mlp"]
        y = jax.nn.gelu(x @ mlp["up"]["kernel"][i] + mlp["up"]["bias"][i], approximate=False)
        x = norm(x + y @ mlp["down"]["kernel"][i] + mlp["down"]["bias"][i], layers["mlp_norm"], i)
    run = lambda method, tree, x: model.apply({"params": tree}, x, method=method)
    found = jax.jit(lambda tree: run("blocks", tree, run("embed", tree, TOKENS)))(tree)
    np.testing.assert_allclose(found, x, rtol=1e-10, atol=1e-12)


def test_sinusoids_of_bfloat16_parameters_know_late_positions():
    with jax.enable_x64(False):
        sinusoids, places = Sinusoids(8, 8**-0.5, Precision("bfloat16")), np.arange(500, 504)
        found = sinusoids.apply(sinusoids.init(jax.random.key(0), places), places)
    angles = places[:, None] * 10_000.0 ** (-np.arange(4) / 4)
    factor = float(jnp.bfloat16(8**-0.5))
    np.testing.assert_allclose(found, factor * np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-4)
    with pytest.raises(ConfigError, match="pairs of a sine"):
        EncoderConfig(width=9, heads=3, positions="sinusoidal")


def test_a_model_without_a_head_says_what_to_do():
    model = EncoderConfig(**SIZE, head="none").build(50, 12, Precision())
    shaped, tree = jax.eval_shape(model.init_with_output, jax.random.key(0), TOKENS)
    assert shaped.shape == (3, 9, 24) and "logit_bias" not in tree["params"]
    with pytest.raises(ConfigError, match="no head") as caught:
        jax.eval_shape(lambda tree: model.apply(tree, np.zeros((1, 1, 24)), method="logits"), tree)
    assert "config.model.head=transform" in caught.value.do


def test_rows_longer_than_the_table():
    with pytest.raises(ConfigError, match="longer than the position table"):
        EncoderConfig(**SIZE, max_length=8).build(50, 9, Precision())
    with pytest.raises(ValueError, match="13 tokens"):
        build("bert").apply({"params": params("bert")}, np.zeros((1, 13), int), method="embed")
