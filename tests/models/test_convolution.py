"""Convolutions against loops, the gradients of the form for CPUs against autodiff's, pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.models import convolution
from pretrainx.models.convolution import Convolution, convolve, max_pool, mean_pool
from pretrainx.models.layers import Precision

draw = lambda *shape, seed=0: np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("window, stride", [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_by_loops(window, stride):
    x, kernel, side = draw(2, 7, 6, 3), draw(window, window, 3, 4, seed=1), (window - 1) // 2
    found = jax.jit(convolve, static_argnums=(2, 3))(x, kernel, stride, Precision("float64", "float64"))
    around = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    assert found.shape == (2, -(-7 // stride), -(-6 // stride), 4)
    for row in range(found.shape[1]):
        for column in range(found.shape[2]):
            seen = around[:, row * stride : row * stride + window, column * stride : column * stride + window]
            wanted = np.tensordot(seen, kernel, ((1, 2, 3), (0, 1, 2)))
            np.testing.assert_allclose(found[:, row, column], wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("window, stride", [(3, 1), (3, 2), (7, 2), (5, 3)])
@pytest.mark.parametrize("size", [(7, 8), (8, 9)])
def test_explicit_gradients(window, stride, size):
    x, kernel = draw(2, *size, 3), draw(window, window, 3, 4, seed=1)
    loss = lambda form: lambda x, kernel: jnp.tanh(form(x, kernel, stride)).sum()
    find = lambda form: jax.jit(jax.grad(loss(form), (0, 1)))(x, kernel)
    for ours, plain in zip(find(convolution._explicit), find(convolution._plain), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-11)


def test_gradients_inside_a_loop_have_the_librarys_order_of_dimensions():
    """XLA's CPU compiler does not reorder dimensions inside of loops; what is not in this order runs in naive code there."""
    x, kernel = np.zeros((2, 2, 8, 8, 4), np.float32), np.zeros((3, 3, 4, 4), np.float32)
    loss = lambda kernel, x: jnp.tanh(convolve(jnp.tanh(x * kernel.mean()), kernel, 1, Precision())).sum()
    loop = lambda kernel, x: jax.lax.scan(lambda g, each: (g + jax.grad(loss)(kernel, each), None), kernel, x)[0]
    lines = jax.jit(loop).lower(kernel, x).compile().as_text().splitlines()
    found = [line.split("dim_labels=")[1].split(",")[0].strip() for line in lines if "dim_labels=" in line]
    assert len(found) == 3 and {*found} == {"b01f_01io->b01f"}


def test_start():
    kernel = Convolution(64, 3).init(jax.random.key(0), np.zeros((1, 4, 4, 32)))["params"]["kernel"]
    assert kernel.names == (None, None, "channels", "features") and kernel.value.shape == (3, 3, 32, 64)
    assert abs(float(kernel.value.std()) / (2 / (9 * 64)) ** 0.5 - 1) < 0.03


def test_pools():
    x = -1 - draw(2, 5, 5, 3) ** 2  # negative: padding must not win
    found = max_pool(x)
    assert found.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(found[:, 0, 0], x[:, :2, :2].max((1, 2)))
    np.testing.assert_array_equal(found[:, 1, 2], x[:, 1:4, 3:].max((1, 2)))
    np.testing.assert_allclose(mean_pool(x), x.mean((1, 2)), rtol=1e-12)
