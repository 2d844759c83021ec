"""Which dimensions of a leaf are layers, inputs and outputs, wherever they stand, and that folding loses nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes
from pretrainx.core.schedule import Ramp
from pretrainx.models.convolution import Convolution
from pretrainx.optim import per_layer
from pretrainx.optim.optimizer import AdafactorConfig, LARSConfig, MuonConfig, Optimizer


@pytest.mark.parametrize(
    ("names", "stacks", "sides"),
    [
        (("embed", "mlp"), (), ((0,), (1,))),
        (("layers", "embed", "heads", "head_dim"), (0,), ((1,), (2, 3))),
        (("layers", "heads", "head_dim", "embed"), (0,), ((1, 2), (3,))),
        (("embed", None, "heads", "head_dim"), (), ((0,), (1, 2, 3))),
        ((None, None, "embed", "mlp"), (), ((0, 1, 2), (3,))),
        (("layers", None, "embed"), (0,), ((1,), (2,))),
        ((None, None), (), ((0,), (1,))),
        (("embed", "layers", "mlp"), (1,), ((0,), (2,))),
        (("embed", "vocab"), (), ((0,), (1,))),
    ],
    ids=str,
)
def test_sides(names, stacks, sides):
    assert per_layer.stacks(names) == stacks and per_layer.sides(names) == sides


def test_folding():
    """[*layers, inputs, outputs], each layer's matrix whole; unfolding gives the leaf back."""
    leaf = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    names = ("heads", "head_dim", "embed", "layers")
    found = per_layer.folded(names, jnp.asarray(leaf))
    assert found.shape == per_layer.folded_shape(names, leaf.shape) == (5, 6, 4)
    np.testing.assert_array_equal(found[3], leaf[..., 3].reshape(6, 4))
    np.testing.assert_array_equal(per_layer.unfolded(names, found, leaf.shape), leaf)


@pytest.mark.parametrize(
    "config",
    [AdafactorConfig(factored_from=2), LARSConfig(), MuonConfig()],
    ids=["adafactor", "lars", "muon"],
)
def test_layers_in_any_place(config):
    """A stack along the last dimension is updated as one along the first."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        weight, gradient = rng.standard_normal((2, 3, 4, 6))
        changed = []
        for names, to in (
            (("layers", "embed", "mlp"), 0),
            (("embed", "mlp", "layers"), 2),
            (("embed", "layers", "mlp"), 1),
        ):
            chain = Optimizer(config, Ramp(1.0, 1.0, 1), 0.0, (("kernel", names),))
            params, gradients = ({"kernel": jnp.asarray(np.moveaxis(x, 0, to))} for x in (weight, gradient))
            new, _ = jax.jit(chain.update)(gradients, jax.jit(chain.init)(params), params)
            changed.append(np.moveaxis(np.asarray(new["kernel"]), to, 0))
        assert np.abs(changed[0] - weight).min() > 0
        np.testing.assert_allclose(changed[1], changed[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(changed[2], changed[0], rtol=1e-9, atol=1e-12)


def test_a_convolution_is_a_matrix_of_its_window_s_inputs():
    boxes = jax.eval_shape(Convolution(128, 3).init, jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]
    ((_, names),) = axes.of_boxed(boxes)
    assert per_layer.is_matrix(names)
    assert per_layer.folded_shape(names, boxes["kernel"].value.shape) == (9 * 64, 128)
