"""Attention, norms and rotary positions against plain formulas in numpy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.models.attention import rotate, turns, unit_rms
from pretrainx.models.layers import ACTIVATIONS, Embedding, Linear, Norm, Precision, dropout, padded

WIDE = Precision("float64", "float64")
draw = lambda *shape, seed=0: np.random.default_rng(seed).standard_normal(shape)
close = lambda a, b, gap=1e-12: np.testing.assert_allclose(a, b, rtol=gap, atol=gap)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norm(kind):
    x, scale, bias = 3 * draw(4, 6) + 1, draw(6, seed=1), draw(6, seed=2)
    leaves = {"scale": scale} | ({"bias": bias} if kind == "layer" else {})
    found = Norm(kind, precision=WIDE).apply({"params": leaves}, x)
    if kind == "layer":
        wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
    else:
        wanted = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    close(found, wanted)


def test_norm_statistics_are_wide():
    """A bfloat16 input keeps its dtype, but its mean is not a bfloat16 sum."""
    x = jnp.asarray(100 + draw(1, 512), jnp.bfloat16)
    found = Norm("layer").apply({"params": {"scale": np.ones(512, "f4"), "bias": np.zeros(512, "f4")}}, x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-7, atol=1e-3)


def test_linear():
    x, kernel, bias = draw(2, 3, 4, 5), draw(4, 5, 6, 2, seed=1), draw(6, 2, seed=2)
    layer = Linear((("heads", 4), ("head_dim", 5)), (("mlp", 6), ("rank", 2)), precision=WIDE)
    found = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    close(found, np.einsum("btij,ijkl->btkl", x, kernel) + bias)
    assert layer.axes == ("heads", "head_dim", "mlp", "rank")


def test_embedding():
    table = draw(8, 3)
    part = lambda x, method: Embedding(8, 3, precision=WIDE).apply({"params": {"table": table}}, x, method=method)
    ids = np.array([[1, 7], [0, 1]])
    close(part(ids, "__call__"), table[ids])
    close(part(draw(2, 3), "attend"), draw(2, 3) @ table.T)


def test_activations():
    x = draw(50) * 3
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    close(ACTIVATIONS["gelu_tanh"](x), tanh)
    close(ACTIVATIONS["relu_squared"](x), np.maximum(x, 0) ** 2)


def angles(length, width, base=10_000.0):
    return turns(jnp.arange(length), width, base, jnp.float64)


def test_rotation_is_relative():
    """Scores of turned queries and keys depend on the distance of their positions alone, and do depend on it."""
    query, key = draw(8, seed=0), draw(8, seed=1)
    everywhere = lambda x: np.asarray(rotate(np.broadcast_to(x, (1, 20, 1, 8)), angles(20, 8)))[0, :, 0]
    scores = everywhere(query) @ everywhere(key).T
    for distance in range(-10, 11):
        diagonal = np.diagonal(scores, distance)
        close(diagonal, np.full_like(diagonal, diagonal[0]), 1e-11)
    assert len({round(float(np.diagonal(scores, d)[0]), 6) for d in range(-10, 11)}) == 21


def test_rotation_formula():
    """Pair (j, j + K/2) is a complex number, turned by t * theta^(-2j/K)."""
    x = draw(1, 5, 1, 6)
    pair = x[..., :3] + 1j * x[..., 3:]
    turned = pair * np.exp(1j * np.arange(5)[:, None, None] * 500.0 ** (-2 * np.arange(3) / 6))
    found = rotate(x, angles(5, 6, 500.0))
    close(found, np.concatenate([turned.real, turned.imag], -1))
    close(found[:, 0], x[:, 0])


def test_unit_rms():
    x = 5 * draw(2, 6)
    close(unit_rms(x), x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))


def test_dropout():
    """Kept entries are scaled by 1 / (1 - rate), about `rate` of them are zero; sites differ."""
    x, keys = np.ones((2, 50, 40)), jax.random.split(jax.random.key(0), 2)
    y = np.asarray(dropout(x, 0.25, keys, 3))
    assert set(np.unique(y)) == {0.0, 1 / 0.75} and abs((y == 0).mean() - 0.25) < 0.03
    assert not np.array_equal(y[0], y[1]) and not np.array_equal(y, dropout(x, 0.25, keys, 4))
    assert dropout(x, 0.25, None, 3) is x and dropout(x, 0.0, keys, 3) is x


def test_padded():
    assert [padded(size, 64) for size in (1, 64, 65, 50257)] == [64, 64, 128, 50304]
