"""The encoder-decoder: what sees what, padding of the source, the cache, T5's buckets and start."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from pretrainx.core.errors import ConfigError
from pretrainx.models.attention import RelativeBias, buckets_of
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.stack import Around
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

SIZE = dict(width=24, depth=1, decoder_depth=2, heads=4, mlp_width=20, vocab_multiple=8)
T5 = dict(positions="relative", norm_first=True, norm="rms", norm_epsilon=1e-6, bias=False, embedding_norm=False)
CONFIGS = {
    "bart": EncoderDecoderConfig(**SIZE, position_offset=2),
    "t5": EncoderDecoderConfig(
        **SIZE, **T5, activation="relu", scaled_attention=False, scaled_logits=True, initial="fan_in"
    ),
    "modern": EncoderDecoderConfig(
        **SIZE, **T5 | dict(positions="rotary"), kv_heads=2, activation="silu", gated=True, tied=False, qk_norm=True
    ),
}
RNG = np.random.default_rng(0)
SOURCE, TOKENS = RNG.integers(0, 50, (4, 10)), RNG.integers(0, 50, (4, 7))
REAL = (np.arange(10) < np.array([[10], [6], [8], [1]])).astype(np.int32)
each = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name):
    return CONFIGS[name].build(50, 10, 9, Precision("float64", "float64"))


@functools.cache
def params(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        tree = meta.unbox(jax.jit(build(name).init)(jax.random.key(0), SOURCE, TOKENS)["params"])
        return jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), tree)


def logits(name, source=SOURCE, tokens=TOKENS, segments=REAL):
    return np.asarray(_logits(name, params(name), source, tokens, segments))


@functools.partial(jax.jit, static_argnums=0)
def _logits(name, tree, source, tokens, segments):
    return build(name).apply({"params": tree}, source, tokens, None, segments)[..., :50]


@each
def test_the_decoder_sees_no_future_and_all_of_the_source(name):
    other = TOKENS.copy()
    other[:, 4] = (other[:, 4] + 1) % 50
    moved = np.abs(logits(name, tokens=other) - logits(name)).max(-1)
    assert (moved[:, :4] == 0).all() and (moved[:, 4:] > 1e-7).all()
    last = SOURCE.copy()
    last[0, 9] = (last[0, 9] + 1) % 50
    moved = np.abs(logits(name, source=last) - logits(name)).max(-1)
    assert (moved[0] > 1e-7).all() and (moved[1:] == 0).all()


@each
def test_padding_of_the_source_is_not_seen(name):
    garbage = np.where(REAL, SOURCE, 9)
    np.testing.assert_array_equal(logits(name, source=garbage), logits(name))
    alone = logits(name, SOURCE[1:2, :6], TOKENS[1:2], None)
    np.testing.assert_allclose(alone, logits(name)[1:2], rtol=1e-9, atol=1e-11)


@each
def test_decoding_with_a_cache_is_the_whole_forward_pass(name):
    """The source is read once; tokens come two at first, then one at a time."""
    run = lambda method, tree, *args: build(name).apply({"params": tree}, *args, method=method)

    @jax.jit
    def start(tree):
        return run("start", tree, run("blocks", tree, run("embed", tree, SOURCE), None, REAL), REAL, 7)

    decode = jax.jit(functools.partial(run, "decode"))
    cache, found = start(params(name)), []
    for first, last in [(0, 2), *((i, i + 1) for i in range(2, 7))]:
        part, cache = decode(params(name), TOKENS[:, first:last], cache)
        found.append(part[..., :50])
    np.testing.assert_allclose(np.concatenate(found, 1), logits(name), rtol=1e-9, atol=1e-11)


def test_no_two_dropouts_share_a_mask():
    """Branches that add 1, 10, 100, ... each: the digits of what a stack makes of nothing are their masks."""
    config = dataclasses.replace(CONFIGS["t5"], bias=True, tied=True, dropout=0.5)
    model = config.build(50, 10, 9, Precision("float64", "float64"))
    keys, nothing = jax.random.split(jax.random.key(3), 4), jnp.zeros((4, 7, 24))
    tree = jax.tree.map(jnp.zeros_like, meta.unbox(jax.jit(model.init)(jax.random.key(0), SOURCE, TOKENS)["params"]))
    tree["token"]["table"] = jnp.ones_like(tree["token"]["table"])
    for side, branches in (("encoder", ("attention", "mlp")), ("decoder", ("attention", "cross", "mlp"))):
        layers = tree[side]["layers"]
        for index, name in enumerate(branches):
            depth = layers["mlp"]["down"]["bias"].shape[0]
            added = 10.0 ** (index + len(branches) * np.arange(depth))
            layers[name]["down" if name == "mlp" else "out"]["bias"] += added[:, None]
            layers[f"{name}_norm"]["scale"] += 1
    run = lambda method, *args: np.asarray(model.apply({"params": tree}, *args, method=method))
    masks = [run("embed", TOKENS, keys) / 2, run("embed_targets", TOKENS, keys) / 2]
    read = run(lambda model: model.encoder.blocks(nothing, jnp.arange(7), Around(keys=keys))[0])
    written = run("target_blocks", nothing, nothing, keys)
    for stack, sites in ((read, 2), (written, 6)):
        masks += [np.round(stack / 2) // 10**site % 10 for site in range(sites)]
    assert all(set(np.unique(mask)) == {0, 1} for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 10


def test_buckets():
    """The first distance that enters each bucket (objectives of T5: Raffel et al. 2020 as released)."""
    distance = np.arange(301)
    begins = lambda buckets: [int(distance[buckets == each][0]) for each in np.unique(buckets)]
    both = np.asarray(buckets_of(jnp.asarray(distance), False, 32, 128))
    assert begins(both)[1:] == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91] and both[1:].min() == 17
    assert np.asarray(buckets_of(-jnp.asarray(distance), False, 32, 128)).max() == 15
    back = np.asarray(buckets_of(-jnp.asarray(distance), True, 32, 128))
    assert begins(back) == [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    assert (np.asarray(buckets_of(jnp.asarray(distance), True, 32, 128)) == 0).all()
    for dtype in (jnp.float32, jnp.float64):
        with jax.enable_x64(dtype == jnp.float64):
            jitted = jax.jit(buckets_of, static_argnums=(1, 2, 3))(-jnp.asarray(distance), True, 32, 128)
            np.testing.assert_array_equal(jitted, back)


def test_a_bias_of_no_distances_is_refused():
    with pytest.raises(ConfigError, match="no distance is left"):
        EncoderDecoderConfig(**SIZE, **T5, buckets=32, bucket_distance=16)
    EncoderDecoderConfig(**SIZE, **T5, buckets=32, bucket_distance=17)


def test_gradient_of_a_bfloat16_bias_is_summed_wide():
    """All pairs that share a bucket add up: 4,000 in the last one."""
    with jax.enable_x64(False):
        places, draw = jnp.arange(128), np.random.default_rng(2)
        weight = jnp.asarray(1 + draw.random((1, 4, 128, 128)), jnp.float32)

        def gradient(params):
            bias = RelativeBias(CONFIGS["t5"], True, Precision(params))
            tree = jax.tree.map(lambda x: x.astype(params), meta.unbox(bias.init(jax.random.key(0), places, places, 1)))
            return jax.grad(lambda tree: (bias.apply(tree, places, places, 1) * weight).sum())(tree)["params"]["table"]

        found, wanted = (np.asarray(gradient(params), np.float32) for params in ("bfloat16", "float32"))
    np.testing.assert_allclose(found, wanted, rtol=2**-8)


def test_t5_starts_with_scores_of_unit_scale():
    """Each matrix by what it adds up; queries carry the 1 / sqrt(K) that T5's scores do not divide by."""
    config = EncoderDecoderConfig(256, 1, 4, mlp_width=512, **T5, scaled_attention=False, initial="fan_in", tied=False)
    model = config.build(1000, 8, 8, Precision())
    tree = meta.unbox(jax.jit(model.init)(jax.random.key(0), SOURCE[:1, :8], TOKENS[:1]))["params"]
    block = tree["decoder"]["layers"]
    wanted = {"query": (256 * 64) ** -0.5, "key": 1 / 16, "value": 1 / 16, "out": 1 / 16}
    for part in ("attention", "cross"):
        for name, std in wanted.items():
            assert abs(block[part][name]["kernel"].std() / std - 1) < 0.02, name
    assert abs(block["mlp"]["down"]["kernel"].std() * 512**0.5 - 1) < 0.02
    assert abs(tree["token"]["table"].std() - 1) < 0.02 and abs(tree["unembed"]["kernel"].std() * 16 - 1) < 0.02


def test_relative_bias_over_a_mesh():
    """Each group of rows has its copy of the bias: the table's gradient is that of one device."""
    model = build("t5")
    loss = lambda tree: (model.apply({"params": tree}, SOURCE, TOKENS, None, REAL)[..., :50] ** 2).sum()
    alone = jax.jit(jax.grad(loss))(params("t5"))
    rules = Rules(make_mesh(MeshConfig(2, 1, 2), jax.devices()[:4]))

    def laid_out(tree):
        with rules.bound():
            return jax.grad(loss)(tree)

    spread = jax.jit(laid_out)(params("t5"))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, spread, alone)
    assert np.abs(alone["encoder"]["relative"]["table"]).max() > 1e-3
