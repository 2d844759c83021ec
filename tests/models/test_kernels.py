"""Attention row by row against a loop in numpy, for every kernel this machine has; matrix products and their gradients."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import kernels
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

draw = lambda *shape, seed=0: np.random.default_rng(seed).standard_normal(shape)
GAP = {"blocks": 1e-12, "xla": 1e-5}  # the library's softmax is float32 even here


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def by_hand(query, key, value, window, segments, filled=0):
    """softmax(q k / sqrt K) v for one row, head and query at a time."""
    found = np.empty_like(query)
    group = query.shape[2] // key.shape[2]
    for b, t, h in np.ndindex(*query.shape[:3]):
        seen = [
            s
            for s in range(key.shape[1])
            if s <= t + filled
            and (not window or t + filled - s < window)
            and (segments is None or segments[b, s] == segments[b, t])
        ]
        scores = key[b, seen, h // group] @ query[b, t, h] / np.sqrt(query.shape[3])
        weights = np.exp(scores - scores.max())
        found[b, t, h] = weights / weights.sum() @ value[b, seen, h // group]
    return found


@pytest.mark.parametrize("kernel", sorted(GAP))
@pytest.mark.parametrize("shared", [1, 2, 6], ids="kv_heads={}".format)
@pytest.mark.parametrize("window, packed", [(0, False), (3, False), (0, True), (3, True)], ids=str)
def test_attention(kernel, shared, window, packed):
    query, key, value = draw(2, 9, 6, 4), draw(2, 9, shared, 4, seed=1), draw(2, 9, shared, 4, seed=2)
    segments = np.array([[1, 1, 1, 2, 2, 3, 3, 0, 0], [1] * 8 + [2]]) if packed else None
    found = kernels.attention(query, key, value, window=window, segments=segments, kernel=kernel)
    np.testing.assert_allclose(found, by_hand(query, key, value, window, segments), rtol=GAP[kernel], atol=GAP[kernel])


SOURCE = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # the second source has padding
PREFIX = np.arange(9) < np.array([[4], [1]])
OTHERWISE = {
    "bidirectional": dict(causal=False),
    "bidirectional, packed": dict(causal=False, segments=np.array([[1, 1, 1, 2, 2, 3, 3, 0, 0], [1] * 8 + [2]])),
    "prefix": dict(seen=PREFIX),
    "relative": dict(bias=draw(1, 6, 9, 9, seed=4), scale=1.0),
    "relative, groups": dict(bias=draw(2, 6, 9, 9, seed=5), causal=False),
    "source": dict(causal=False, segments=np.ones((2, 9), int), key_segments=SOURCE, scale=0.3),
}


def by_mask(query, key, value, causal=True, segments=None, key_segments=None, seen=None, bias=None, scale=None):
    """The same from a full mask, for equal numbers of heads, differentiable: [B, T, H, K]."""
    times, sources = np.arange(query.shape[1])[:, None], np.arange(key.shape[1])[None]
    mask = (sources <= times) if causal else np.ones((len(times), sources.size), bool)
    mask = mask[None] | (False if seen is None else seen[:, None, :])
    if segments is not None:
        mask = mask & (segments[:, :, None] == (segments if key_segments is None else key_segments)[:, None, :])
    scores = jnp.einsum("bthk,bshk->bhts", query, key) * (query.shape[3] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + jnp.repeat(bias, len(query) // len(bias), axis=0)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights, value)


@pytest.mark.parametrize("kernel", sorted(GAP))
@pytest.mark.parametrize("case", OTHERWISE)
def test_what_is_seen_otherwise(case, kernel):
    """Both directions, prefixes, biases and other sequences: values and gradients, the bias's too."""
    options = OTHERWISE[case]
    sources = options.get("key_segments", np.ones((2, 9))).shape[1]
    arrays = {"query": draw(2, 9, 6, 4), "key": draw(2, sources, 6, 4, seed=1), "value": draw(2, sources, 6, 4, seed=2)}
    arrays |= {"bias": options["bias"]} if "bias" in options else {}
    rest = {name: value for name, value in options.items() if name != "bias"}
    weight = draw(2, 9, 6, 4, seed=3)
    ours = lambda arrays: (kernels.attention(**arrays, **rest, kernel=kernel) * weight).sum()
    theirs = lambda arrays: (by_mask(**arrays, **rest) * weight).sum()
    found, wanted = (jax.jit(jax.value_and_grad(f))(arrays) for f in (ours, theirs))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=10 * GAP[kernel], atol=10 * GAP[kernel])
    jax.tree.map(close, found, wanted)


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_of_queries(window, packed):
    """A long row is computed in four blocks of queries: the same values and gradients as from all keys at once."""
    query, key, value = (draw(2, 128, 2, 4, seed=i) for i in range(3))
    segments = np.sort(np.random.default_rng(3).integers(0, 4, (2, 128)), axis=1) if packed else None

    def whole(query, key, value):
        mask = kernels.allowed(jnp.arange(128), jnp.arange(128), window)
        if packed:
            mask = mask & kernels.same(segments, segments)[:, None]
        return kernels._softmax(*(x.swapaxes(1, 2) for x in (query, key, value)), mask).swapaxes(1, 2)

    blocks = lambda *qkv: kernels.attention(*qkv, window=window, segments=segments, kernel="blocks")
    weight = draw(2, 128, 2, 4, seed=5)
    both = lambda f: jax.value_and_grad(lambda qkv: (f(*qkv) * weight).sum())((query, key, value))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), both(blocks), both(whole))


@pytest.mark.parametrize("kernel", sorted(GAP))
@pytest.mark.parametrize("window", [0, 3])
def test_decoding(kernel, window):
    """Queries that stand after five cached tokens, in a cache longer than what it holds."""
    query, key, value = draw(2, 2, 4, 4), draw(2, 11, 2, 4, seed=1), draw(2, 11, 2, 4, seed=2)
    found = kernels.attention(query, key, value, window=window, filled=jnp.int32(5), kernel=kernel)
    wanted = by_hand(query, key, value, window, None, filled=5)
    np.testing.assert_allclose(found, wanted, rtol=GAP[kernel], atol=GAP[kernel])


def test_a_query_that_sees_nothing_is_finite():
    value = draw(1, 1, 3, 4)
    found = kernels._softmax(value, value, value, np.zeros((3, 3), bool))
    np.testing.assert_allclose(found, np.broadcast_to(value.mean(2, keepdims=True), value.shape), rtol=1e-12)


def test_unit_weights_of_padding():
    """Padding is a segment of its own: no token of a document sees it."""
    query, key, value = (draw(1, 6, 1, 4, seed=i) for i in range(3))
    segments = np.array([[1, 1, 2, 2, 0, 0]])
    other = value.copy()
    other[:, 4:] += 1.0
    run = lambda value: np.asarray(kernels.attention(query, key, value, segments=segments))
    np.testing.assert_array_equal(run(value)[:, :4], run(other)[:, :4])


def test_products_in_bfloat16():
    """The hand-written gradients of the CPU's bfloat16 product are those of the exact product of the rounded operands."""
    x, kernel, weight = draw(3, 4, 8), draw(8, 6, seed=1).astype("f4"), draw(3, 4, 6, seed=2)
    rounded = lambda a: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64)

    def loss(x, kernel):
        return (kernels.matmul(x, kernel, "bfloat16") * weight).sum()

    found = jax.jit(kernels.matmul, static_argnums=2)(x, kernel, "bfloat16")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded(x) @ rounded(kernel), rtol=1e-5, atol=1e-5)
    to_x, to_kernel = jax.jit(jax.grad(loss, (0, 1)))(jnp.asarray(x, jnp.bfloat16), kernel)
    assert to_x.dtype == jnp.bfloat16 and to_kernel.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(to_x, float), rounded(weight) @ rounded(kernel).T, rtol=1e-2, atol=1e-2)
    wanted = rounded(x).reshape(-1, 8).T @ rounded(weight).reshape(-1, 6)
    np.testing.assert_allclose(to_kernel, wanted, rtol=1e-5, atol=1e-5)


def rules_of(**mesh):
    return Rules(make_mesh(MeshConfig(**{"data": 1, **mesh}), jax.devices()[: math.prod(mesh.values())]))


@pytest.mark.parametrize(
    "wanted, mesh, arguments",
    [
        ("blocks", {}, ("cpu", "bfloat16", 64, 128, 4)),
        ("blocks", {}, ("cuda", "float64", 64, 128, 4)),
        ("cudnn", {}, ("cuda", "bfloat16", 64, 128, 4)),
        ("xla", {}, ("cuda", "float32", 64, 128, 4)),
        ("xla", {}, ("gpu", "bfloat16", 64, 128, 4)),
        ("splash", {}, ("tpu", "bfloat16", 64, 128, 4)),
        ("splash", {}, ("tpu", "float32", 128, 384, 4, "segments")),
        ("xla", {}, ("tpu", "bfloat16", 64, 128, 4, "prefix")),
        ("xla", {}, ("tpu", "bfloat16", 64, 128, 4, "", True)),
        ("xla", {}, ("tpu", "bfloat16", 64, 127, 4)),
        ("xla", {}, ("tpu", "bfloat16", 80, 128, 4)),
        ("splash", {"context": 2}, ("tpu", "bfloat16", 64, 256, 4)),
        ("xla", {"context": 2}, ("tpu", "bfloat16", 64, 128, 4)),
        ("xla", {}, ("cuda", "bfloat16", 20, 128, 4)),
        ("xla", {}, ("cuda", "bfloat16", 256, 128, 4)),
        ("cudnn", {}, ("cuda", "bfloat16", 64, 127, 4)),
        ("xla", {}, ("cuda", "bfloat16", 64, 127, 4, "segments")),
        ("cudnn", {}, ("cuda", "bfloat16", 64, 128, 4, "segments")),
        ("cudnn", {}, ("cuda", "bfloat16", 64, 128, 4, "prefix")),
        ("xla", {}, ("cuda", "bfloat16", 64, 128, 4, "", True)),
        ("xla", {"context": 2}, ("cuda", "bfloat16", 64, 128, 4)),
        ("cudnn", {"tensor": 2}, ("cuda", "bfloat16", 64, 128, 4)),
        ("xla", {"tensor": 8}, ("cuda", "bfloat16", 64, 128, 4)),
        ("cudnn", {"fsdp": 8}, ("cuda", "bfloat16", 64, 128, 4)),
    ],
    ids=str,
)
def test_choice(wanted, mesh, arguments):
    """cuDNN only where it runs: NVIDIA, 16 bits, heads of 8, 16, ... 128, whole lengths, key heads split as queries are.

    Splash on a TPU: pieces of 128 tokens, heads of 64, 128 or 256, segments but no prefix.
    """
    with rules_of(**mesh).bound():
        assert kernels.choose(arguments[0], jnp.dtype(arguments[1]), *arguments[2:]) == wanted


def test_products_of_gradients_are_narrow():
    """On an accelerator too: every product of a bfloat16 layer, forward and backward, has bfloat16 operands."""
    x, kernel = jnp.ones((2, 4, 8), jnp.bfloat16), jnp.ones((8, 6), jnp.float32)
    loss = lambda x, kernel: kernels.matmul(x, kernel, "bfloat16").sum()
    with rules_of(data=8).bound():  # what one CPU does otherwise is for one CPU
        program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, kernel))
    products = re.findall(r"dot_general\[.*?\] (\w+) (\w+)", program, re.DOTALL)
    types = dict(re.findall(r"(\w+):(\w+)\[", program))
    assert len(products) >= 2 and {types[name] for pair in products for name in pair} == {"bf16"}


def test_a_whole_model_in_bfloat16():
    """Every leaf's gradient is that of float32 to bfloat16's rounding, also of a token that comes a thousand times."""
    config = DecoderConfig(width=16, depth=2, heads=2, vocab_multiple=16)
    vocabulary = Vocabulary(40, (("pad", 0), ("eos", 1)))
    tokens = np.minimum(np.random.default_rng(0).zipf(1.3, (16, 129)), 39).astype(np.int32)
    batch = {"tokens": tokens, "valid": np.ones(16, bool)}

    def gradient(dtype):
        objective = AutoregressiveConfig().build(config, vocabulary, 128, Precision("float32", dtype))
        params = axes.unbox(objective.init(jax.random.key(0), batch))
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype("f4"), params)
        keys = objective.row_keys(jax.random.key(0), batch)

        def loss(params):
            seen = objective.observe_rows(keys, batch, 0)
            return objective.encode(params, {}, seen, keys, 0, train=True).totals["nll"]

        return dict(paths.leaves(jax.jit(jax.grad(loss))(params)))

    narrow, exact = gradient("bfloat16"), gradient("float32")
    for path, leaf in exact.items():
        if not path.endswith("key/bias"):  # zero but for rounding: softmax does not see it
            assert np.linalg.norm(narrow[path] - leaf) < 0.012 * np.linalg.norm(leaf), path
