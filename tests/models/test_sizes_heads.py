"""Parameters of heads are those of the real modules."""

import jax
import jax.numpy as jnp
import pytest

from pretrainx.core import paths
from pretrainx.models.dino_head import DinoHead
from pretrainx.models.heads import MlpHead
from pretrainx.models.sizes_heads import head_parameters, head_weights

HEADS = {
    "SimCLR's": (MlpHead((16, 8), "batch", "scale", False), 12 * 16 + 16 * 8, 2 * 16 + 8),
    "MoCo's": (MlpHead((16, 8), "none"), 12 * 16 + 16 * 8, 16 + 8),
    "with a last bias": (
        MlpHead((16, 8), "batch", "full", False, last_bias=True),
        12 * 16 + 16 * 8,
        2 * 16 + 2 * 8 + 8,
    ),
    "DINO's": (DinoHead((16, 6), 10), 12 * 16 + 16 * 6 + 6 * 10, 16 + 6),
    "DINO's with norms": (DinoHead((16, 6), 10, "batch"), 12 * 16 + 16 * 6 + 6 * 10, 2 * 16),
}


@pytest.mark.parametrize("name", HEADS)
def test_parameters_of_heads(name):
    head, weights, others = HEADS[name]
    assert (head_weights(head, 12), head_parameters(head, 12)) == (weights, weights + others)
    shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((2, 12)))
    assert sum(leaf.value.size for _, leaf in paths.leaves(shapes["params"])) == weights + others


def test_no_head():
    assert head_weights(None, 12) == head_parameters(None, 12) == 0
