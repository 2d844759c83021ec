"""Convolutions against loops, the gradients of the form for CPUs against autodiff's, pooling."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.models import convolution
from pretrainx.models.convolution import Convolution, convolve, max_pool, mean_pool
from pretrainx.models.layers import Precision
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from toys.compiled import loops

MANY = convolution.FEW_CHANNELS + 2
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
@pytest.mark.parametrize("channels, features", [(3, 4), (MANY, 4), (5, MANY), (MANY, MANY)])
def test_the_form_for_cpus(channels, features, size, window, stride, monkeypatch):
    """With few channels and with many, six pictures in groups of two or three: XLA's own convolution and its autodiff."""
    monkeypatch.setattr(convolution, "PLACES", 3 * size[0] * size[1] // stride**2)
    x, kernel = draw(6, *size, channels), draw(window, window, channels, features, seed=1)
    loss = lambda form: lambda x, kernel: jnp.tanh(form(x, kernel, stride) / 10).sum()
    find = lambda form: jax.jit(jax.value_and_grad(loss(form), (0, 1)))(x, kernel)
    ours, plain = (jax.tree.leaves(find(form)) for form in (convolution._for_cpu, convolution._plain))
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("channels, convolutions", [(4, 0), (MANY, 2)])
def test_convolutions_inside_a_loop_have_the_librarys_order_of_dimensions(channels, convolutions):
    """XLA's CPU compiler does not reorder dimensions inside of loops; what is not in this order runs in naive code there."""
    x = np.zeros((2, 2, 8, 8, channels), np.float32)
    kernel = np.zeros((3, 3, channels, channels), np.float32)
    loss = lambda kernel, x: jnp.tanh(convolve(jnp.tanh(x * kernel.mean()), kernel, 1, Precision())).sum()
    loop = lambda kernel, x: jax.lax.scan(lambda g, each: (g + jax.grad(loss)(kernel, each), None), kernel, x)[0]
    lines = jax.jit(loop).lower(kernel, x).compile().as_text().splitlines()
    found = [line.split("dim_labels=")[1].split(",")[0].strip() for line in lines if "dim_labels=" in line]
    assert found == ["b01f_01io->b01f"] * convolutions


def test_kernels_gradients_cross_devices_once(monkeypatch):
    """Sixteen pictures over four devices, two groups on each: one sum, behind the loop, and the value of one device."""
    monkeypatch.setattr(convolution, "PLACES", 2 * 6 * 6)
    rules = Rules(make_mesh(MeshConfig(4), jax.devices()[:4]))
    x, kernel = draw(16, 6, 6, 3), draw(3, 3, 3, 4, seed=1)

    def gradient(kernel, x):
        with rules.bound():  # as the step has it: around the derivative
            loss = lambda kernel: jnp.tanh(convolve(x, kernel, 1, Precision("float64", "float64"))).sum()
            return jax.grad(loss)(kernel)

    found = jax.jit(gradient, out_shardings=rules.replicated())
    program = found.lower(kernel, jax.device_put(x, rules.rows(x.shape))).compile()
    body = loops(program.as_text())
    assert any("dot(" in line or "fusion(" in line for line in body), "the loop is there"
    assert not [line for line in body if re.search(r"= \S+ (all-|reduce-scatter|collective)", line)]
    assert "all-reduce" in program.as_text()
    wanted = jax.grad(lambda kernel: jnp.tanh(convolution._plain(x, kernel, 1)).sum())(kernel)
    np.testing.assert_allclose(program(kernel, jax.device_put(x, rules.rows(x.shape))), wanted, rtol=1e-9, atol=1e-10)


def test_sums_of_half_precision_are_in_float32():
    """257 pictures of one place, which bfloat16 cannot count."""
    x, gradient = jnp.ones((257, 1, 1, 1), jnp.bfloat16), jnp.ones((257, 1, 1, 1), jnp.bfloat16)
    found = convolution._gradient_of_kernel(x, gradient, 3, 1)
    assert found.dtype == jnp.float32 and float(found[1, 1, 0, 0]) == 257


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
