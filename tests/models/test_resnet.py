"""Residual networks: forms, the start, whose statistics, groups, bfloat16. Equality with torchvision: tests/parity."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import RESNET50, ResNetConfig
from pretrainx.models.siamese import run, variables

SMALL = ResNetConfig((1, 1), width=4)
X = np.random.default_rng(0).standard_normal((4, 8, 8, 3))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(config, precision=Precision("float64", "float64")):
    return config.build(Images(8), precision)


@functools.cache
def made(config):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        trees = meta.unbox(jax.jit(functools.partial(variables, build(config)))(jax.random.key(0), X))
        return jax.tree.map(lambda x: x + 0.2 * np.abs(rng.standard_normal(x.shape)), trees)


def applied(config, x, valid=None, train=True):
    return _applied(config, *made(config), x, valid, train)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _applied(config, params, stats, x, valid, train):
    return run(build(config), params, stats, x, valid=valid, train=train)


@pytest.mark.parametrize("stem, bottleneck", [("small", False), ("large", True)])
def test_form(stem, bottleneck):
    config = replace(SMALL, stem=stem, bottleneck=bottleneck, stages=(1, 2))
    params, stats = made(config)
    assert params["stem"]["kernel"].shape == ((7, 7, 3, 4) if stem == "large" else (3, 3, 3, 4))
    found = applied(config, X)[0]
    assert found.shape == (4, build(config).feature_width) == (4, 32 if bottleneck else 8)
    blocks = {name for name in params if "block" in name}
    assert blocks == {"stage_0_block_0", "stage_1_block_0", "stage_1_block_1"}
    # A shortcut where the shape changes: in the first stage of bottlenecks too.
    assert {name for name in blocks if "shortcut" in params[name]} == (
        {"stage_0_block_0", "stage_1_block_0"} if bottleneck else {"stage_1_block_0"}
    )
    assert jax.tree.structure(applied(config, X)[1]) == jax.tree.structure(stats)


def test_blocks_start_as_nothing():
    """With zero_residual the last factors are 0: what a block adds is nothing."""
    for zero in (True, False):
        config = replace(RESNET50, stages=(1,), width=4, zero_residual=zero)
        params, _ = jax.jit(functools.partial(variables, build(config)))(jax.random.key(0), X)
        names = ("stem_norm", "stage_0_block_0")
        scales = lambda node: node.get("scale") or [node[f"norm_{index}"]["scale"] for index in range(3)]
        stem, *blocks = (meta.unbox(scales(params[name])) for name in names)
        assert (stem == 1).all()
        for first, second, last in blocks:
            assert (first == 1).all() and (second == 1).all() and (last == (0 if zero else 1)).all()


def test_rows_share_statistics_in_training_only():
    other = X.copy()
    other[3] *= 2
    same = lambda a, b: np.abs(a[:3] - b[:3]).max() < 1e-12
    train, infer = (lambda x, t=t: np.asarray(applied(SMALL, x, None, t)[0]) for t in (True, False))
    assert not same(train(other), train(X)) and same(infer(other), infer(X))
    valid = np.arange(4) < 3
    masked = lambda x: np.asarray(applied(SMALL, x, valid)[0])
    assert same(masked(other), masked(X))
    grouped = replace(SMALL, batch_group=2)
    pair = lambda x: np.asarray(applied(grouped, x)[0])[:2]
    assert np.abs(pair(other) - pair(X)).max() < 1e-12


def test_group_norm_has_no_statistics():
    config = replace(SMALL, norm="group", norm_groups=2)
    params, stats = made(config)
    assert stats == {} and params["stem_norm"].keys() == {"scale", "bias"}
    together, alone = applied(config, X)[0], applied(config, X[:1])[0]
    np.testing.assert_allclose(together[:1], alone, rtol=1e-11, atol=1e-12)


def test_every_leaf_has_a_gradient():
    params, stats = made(SMALL)
    weigh = np.random.default_rng(2).standard_normal((4, 8))
    loss = lambda params: (run(build(SMALL), params, stats, X, train=True)[0] * weigh).sum()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-9, path


def test_bfloat16():
    with jax.enable_x64(False):
        config, precision = SMALL, Precision("float32", "bfloat16")
        params, stats = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), made(config))
        loss = lambda precision: (
            lambda params: (run(build(config, precision), params, stats, X, train=True)[0]).astype(jnp.float32).sum()
        )
        narrow, whole = (jax.jit(jax.value_and_grad(loss(p)))(params) for p in (precision, Precision()))
        assert abs(float(narrow[0]) / float(whole[0]) - 1) < 0.02
        assert {leaf.dtype for leaf in jax.tree.leaves(narrow[1])} == {jnp.dtype("float32")}


def test_what_is_refused():
    with pytest.raises(ConfigError, match="no blocks"):
        ResNetConfig(stages=(2, 0))
    with pytest.raises(ConfigError, match="groups do not divide"):
        ResNetConfig(norm="group", width=48)
