"""Layer-wise rates: every layer's, in the optimizer's step and its table, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.schedule import Ramp
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.optim import table
from pretrainx.optim.optimizer import AdamWConfig, Group, LARSConfig, MuonConfig, Optimizer, SGDConfig

K = 0.5


@functools.cache
def leaves():
    """Of a decoder of three layers with an own head: (axes, shapes)."""
    model = Decoder(DecoderConfig(width=8, depth=3, heads=2, vocab_multiple=16, tied=False), 10, 6)
    boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    return axes.of_boxed(boxes), {path: leaf.shape for path, leaf in paths.leaves(axes.unbox(boxes))}


def tree(seed):
    rng = np.random.default_rng(seed)
    return paths.from_leaves((path, jnp.asarray(rng.standard_normal(shape))) for path, shape in leaves()[1].items())


def moved(config):
    chain, params = Optimizer(config, Ramp(0.5, 0.5, 1), 0.0, leaves()[0]), tree(0)
    new, _ = chain.update(tree(1), chain.init(params), params)
    return {path: new - old for (path, new), (_, old) in zip(paths.leaves(new), paths.leaves(params), strict=True)}


def expected(path):
    """k^(L + 1 - l) for L = 3."""
    if path.startswith("layers/"):
        return np.array([K**3, K**2, K])
    return K**4 if path.startswith(("token", "position")) else 1.0


@pytest.mark.parametrize(
    "config",
    [AdamWConfig, MuonConfig, functools.partial(SGDConfig, weight_decay=0.1), LARSConfig],
    ids=["adamw", "muon", "sgd", "lars"],
)
def test_each_layer_moves_by_its_rate(config):
    with jax.enable_x64(True):
        plain = moved(config())
        decayed = moved(config(groups=(Group(layer_decay=K),)))
        for path, change in decayed.items():
            factor = np.reshape(expected(path), (-1,) + (1,) * (change.ndim - 1))
            np.testing.assert_allclose(change, factor * plain[path], rtol=1e-9, atol=1e-14, err_msg=path)


def test_groups_multiply():
    groups = (Group(layer_decay=K), Group("layers/mlp/.*", rate=0.1), Group("unembed/.*", layer_decay=1.0, rate=3.0))
    rates = Optimizer(AdamWConfig(groups=groups), Ramp(1.0, 1.0, 1), 0.0, leaves()[0]).rates(leaves()[1])
    np.testing.assert_allclose(np.ravel(rates["layers/mlp/up/kernel"]), 0.1 * expected("layers/"))
    assert rates["unembed/kernel"] == 3.0 and rates["token/table"] == K**4


def test_only_the_pattern_is_decayed():
    """A stack alone, as for an encoder beside a decoder: what it does not match keeps the whole rate."""
    groups = (Group("layers/.*", layer_decay=K),)
    rates = Optimizer(AdamWConfig(groups=groups), Ramp(1.0, 1.0, 1), 0.0, leaves()[0]).rates(leaves()[1])
    assert rates["token/table"] == 1.0 and rates["layers/mlp/up/kernel"][0] == K**3


def test_the_table_shows_first_and_last():
    optimizer = Optimizer(AdamWConfig(groups=(Group(layer_decay=K),)), Ramp(1.0, 1.0, 1), 0.0, leaves()[0])
    lines = {line.split()[0]: line for line in table.lines(optimizer, leaves()[1])}
    assert "0.125 to 0.5" in lines["layers/mlp/up/kernel"] and " 0.0625 " in lines["token/table"]


def test_without_layers_it_is_refused():
    model = ResNetConfig(stages=(1,), width=8, stem="small").build(Images(8, 3), Precision())
    boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    with pytest.raises(ConfigError, match="layer_decay or unfreeze_every without layers") as caught:
        Optimizer(AdamWConfig(groups=(Group(layer_decay=0.7),)), Ramp(1.0, 1.0, 1), 0.0, axes.of_boxed(boxes))
    assert caught.value.where == "config.optimizer.groups"


def test_inputs_of_frozen_blocks_are_refused():
    optimizer = Optimizer(AdamWConfig(groups=(Group(layer_decay=0.7),)), Ramp(1.0, 1.0, 1), 0.0, leaves()[0])
    with pytest.raises(ConfigError, match="blocks are not trained"):
        optimizer.rates({"token/table": leaves()[1]["token/table"]})


def test_a_frozen_stack_counts_as_deep_as_the_table_says():
    """What is handed in lies under three frozen blocks and one that is trained."""
    found = dict(leaves()[1]) | {"head/layers/kernel": (1, 8, 8)}
    names = (*leaves()[0], ("head/layers/kernel", ("layers", "embed", "mlp")))
    config = AdamWConfig(groups=(Group(layer_decay=K),))
    optimizer = Optimizer(config, Ramp(1.0, 1.0, 1), 0.0, names, tuple(found.items()))
    trained = {path: found[path] for path in ("token/table", "head/layers/kernel")}
    table_of = {path: rate for path, _, _, rate, _ in optimizer.table(found)}
    assert optimizer.rates(trained)["token/table"] == table_of["token/table"] == K**4
