"""To an optimizer each expert of each block is a matrix of its own, and the router's columns are the outputs of a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.schedule import Ramp
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.experts import ExpertsConfig
from pretrainx.optim import per_layer
from pretrainx.optim.optimizer import AdafactorConfig, LARSConfig, MuonConfig, Optimizer

NAMES = ("layers", "experts", "embed", "mlp")


def test_roles_and_sides():
    config = DecoderConfig(width=8, depth=2, heads=2, mlp_width=12, gated=True, experts=ExpertsConfig(4))
    boxes = jax.eval_shape(Decoder(config, 10, 6).init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    names, shapes = dict(axes.of_boxed(boxes)), dict(paths.leaves(axes.unbox(boxes)))
    mlp = {path: leaf.shape for path, leaf in shapes.items() if "/mlp/" in path}
    sides = {path: axes.matrix_shape(names[path], shape) for path, shape in mlp.items()}
    assert sides == {
        "layers/mlp/router/kernel": (8, 4),
        "layers/mlp/gate/kernel": (8, 12),
        "layers/mlp/up/kernel": (8, 12),
        "layers/mlp/down/kernel": (12, 8),
    }
    roles = {path: axes.role(names[path]) for path in mlp}
    assert roles.pop("layers/mlp/router/kernel") == "head" and set(roles.values()) == {"kernel"}
    assert names["layers/mlp/up/kernel"] == NAMES
    assert per_layer.stacks(NAMES) == (0, 1) and per_layer.sides(NAMES) == ((2,), (3,))


@pytest.mark.parametrize(
    "config",
    [AdafactorConfig(factored_from=2, weight_decay=0.1), LARSConfig(), MuonConfig()],
    ids=["adafactor", "lars", "muon"],
)
def test_each_expert_is_updated_as_if_alone(config):
    rng = np.random.default_rng(0)
    weight, gradient = rng.standard_normal((2, 2, 3, 4, 6)) * np.array([1.0, 5.0, 0.2])[:, None, None]

    def after(names, weight, gradient):
        chain = Optimizer(config, Ramp(1.0, 1.0, 1), 0.0, (("kernel", names),))
        params = {"kernel": jnp.asarray(weight)}
        return chain.update({"kernel": jnp.asarray(gradient)}, chain.init(params), params)[0]["kernel"]

    with jax.enable_x64(True):
        together = jax.jit(lambda w, g: after(NAMES, w, g))(weight, gradient)
        alone = jax.jit(lambda w, g: after(NAMES[2:], w, g))
        for layer, expert in np.ndindex(2, 3):
            one = alone(weight[layer, expert], gradient[layer, expert])
            np.testing.assert_allclose(together[layer, expert], one, rtol=1e-12)
