"""Muon: on hidden kernels only, and on a stacked leaf the same as on each layer's matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import scale_by_muon

from pretrainx.core import axes, paths
from pretrainx.core.schedule import Ramp
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.optim.muon import dimensions
from pretrainx.optim.optimizer import MuonConfig, Optimizer

LAYERS, WIDTH, HEADS = 3, 8, 2
MODEL = Decoder(DecoderConfig(width=WIDTH, depth=LAYERS, heads=HEADS, vocab_multiple=16), 10, 6)
CONFIG = MuonConfig(weight_decay=0.0)
SIDES = {  # of each layer's matrix
    "layers/attention/query/kernel": (8, 8),
    "layers/attention/key/kernel": (8, 8),
    "layers/attention/value/kernel": (8, 8),
    "layers/attention/out/kernel": (8, 8),
    "layers/mlp/up/kernel": (8, 32),
    "layers/mlp/down/kernel": (32, 8),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def leaves():
    boxes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    return axes.of_boxed(boxes), {path: leaf.shape for path, leaf in paths.leaves(axes.unbox(boxes))}


def tree(seed):
    rng = np.random.default_rng(seed)
    return paths.from_leaves((path, jnp.asarray(rng.standard_normal(shape))) for path, shape in leaves()[1].items())


@functools.cache
def two_updates():
    """({path: gradient} of both steps, {path: change} of both steps, the state after them), at rate 1 without decay."""
    with jax.enable_x64(True):
        chain = Optimizer(CONFIG, Ramp(1.0, 1.0, 1), 0.0, leaves()[0])
        params, gradients, changes = tree(0), [tree(1), tree(2)], []
        state, update = chain.init(params), jax.jit(chain.update)
        for gradient in gradients:
            new, state = update(gradient, state, params)
            changes.append(dict(paths.leaves(jax.tree.map(jnp.subtract, new, params))))
            params = new
        return [dict(paths.leaves(gradient)) for gradient in gradients], changes, state


def test_only_hidden_kernels():
    """Every hidden kernel has Muon's momentum and no second moment; tables, norms and biases have Adam's two."""
    _, _, state = two_updates()
    names = paths.names_of(state)["muon"]
    momentum = paths.from_leaves(paths.leaves(names["hidden"]))["0"]["mu"]
    assert {path for path, _ in paths.leaves(momentum)} == set(SIDES)
    others = set(leaves()[1]) - set(SIDES)
    assert {"token/table", "position/table", "final_norm/scale", "layers/attention/query/bias"} <= others
    for moment in ("mu", "nu"):
        assert {path for path, _ in paths.leaves(names["rest"][moment])} == others


def test_the_rest_is_adam():
    gradients, changes, _ = two_updates()
    rest = [path for path in leaves()[1] if path not in SIDES]
    adam = optax.scale_by_adam(CONFIG.b1, CONFIG.b2, CONFIG.epsilon)
    state = adam.init({path: gradients[0][path] for path in rest})
    for gradient, change in zip(gradients, changes, strict=True):
        wanted, state = adam.update({path: gradient[path] for path in rest}, state)
        for path in rest:
            np.testing.assert_allclose(change[path], -wanted[path], rtol=1e-9, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("path", SIDES)
def test_a_stack_is_its_single_matrices(path):
    """optax's Muon on each layer's 2-D matrix, two steps: the stacked and the 4-D head kernels get exactly that."""
    gradients, changes, _ = two_updates()
    sides, muon = SIDES[path], scale_by_muon(beta=CONFIG.momentum)
    for layer in range(LAYERS):
        state = muon.init(jnp.zeros(sides))
        for gradient, change in zip(gradients, changes, strict=True):
            wanted, state = muon.update(gradient[path][layer].reshape(sides), state)
            wanted = -0.2 * max(sides) ** 0.5 * wanted
            np.testing.assert_allclose(change[path][layer].reshape(sides), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", SIDES)
def test_near_orthogonal(path):
    """Singular values near 0.2 sqrt(larger side) for each layer, so entries have about the size of Adam's updates."""
    _, changes, _ = two_updates()
    for layer in range(LAYERS):
        matrix = np.asarray(changes[0][path][layer]).reshape(SIDES[path])
        sizes = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(SIDES[path]) ** 0.5)
        assert 0.3 < sizes.min() and sizes.max() < 1.4, sizes
        assert 0.1 < np.sqrt((matrix**2).mean()) < 0.3


def test_dimensions():
    assert dimensions(("layers", "embed", "heads", "head_dim")) == ((1,), (2, 3))
    assert dimensions(("layers", "heads", "head_dim", "embed")) == ((1, 2), (3,))
    assert dimensions(("embed", "mlp")) == ((0,), (1,))
