"""Heads and the network that carries them: layers by hand, their forms, names, what moves when."""

import functools

import jax
import numpy as np
import pytest
from flax.core import meta

from pretrainx.core import paths
from pretrainx.core.images import Images
from pretrainx.models.heads import Classifier, MlpHead
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.siamese import Siamese, run, variables
from pretrainx.models.vit import VitConfig

WIDE, IMAGES = Precision("float64", "float64"), Images(8)
X = np.random.default_rng(0).standard_normal((6, 8))
PICTURES = np.random.default_rng(1).standard_normal((4, 8, 8, 3))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def made(model, x):
    params, stats = meta.unbox(jax.jit(functools.partial(variables, model))(jax.random.key(0), x))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape), params), stats


def normal(y, leaf):
    y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
    return y * leaf.get("scale", 1) + leaf.get("bias", 0)


@pytest.mark.parametrize(
    "head",
    [
        MlpHead((10, 6), "batch", "scale", False, WIDE),  # SimCLR
        MlpHead((10, 6), "none", "none", True, WIDE),  # MoCo 2
        MlpHead((10, 9, 6), "batch", "plain", False, WIDE),  # MoCo 3
        MlpHead((10, 6), "batch", "full", True, WIDE),
    ],
)
def test_by_hand(head):
    params, stats = made(head, X)
    y, last = X, len(head.widths) - 1
    for index in range(last + 1):
        dense, norm = params[f"dense_{index}"], params.get(f"norm_{index}", {})
        assert dense.keys() == ({"kernel", "bias"} if head.bias else {"kernel"})
        y = y @ dense["kernel"] + dense.get("bias", 0)
        if index < last:
            assert norm.keys() == ({"scale", "bias"} if head.norm == "batch" else set())
            y = np.maximum(normal(y, norm) if head.norm == "batch" else y, 0)
        elif head.last_norm != "none":
            kept = {"plain": set(), "scale": {"scale"}, "full": {"scale", "bias"}}
            assert norm.keys() == kept[head.last_norm]
            y = normal(y, norm)
    found, moved = jax.jit(lambda: run(head, params, stats, X, train=True))()
    np.testing.assert_allclose(found, y, rtol=1e-11, atol=1e-11)
    assert jax.tree.structure(moved) == jax.tree.structure(stats)
    if stats:
        assert (np.asarray(moved["norm_0"]["mean"]) != np.asarray(stats["norm_0"]["mean"])).all()


def test_forms_are_checked():
    with pytest.raises(ValueError, match="last_norm 'batch' is none of"):
        MlpHead((4,), "batch", "batch").init(jax.random.key(0), X)


@pytest.mark.parametrize(
    "backbone, predicts", [(VitConfig(8, 1, 2, patch=4), True), (ResNetConfig((1,), width=4), False)]
)
def test_siamese(backbone, predicts):
    """What heads read and give; statistics move in training only, and only where there are any."""
    head = lambda: MlpHead((6, 5), "none" if isinstance(backbone, VitConfig) else "batch", "none", True, WIDE)
    model = Siamese(backbone.build(IMAGES, WIDE), head(), head() if predicts else None)
    params, stats = made(model, PICTURES)
    names = ("backbone", "projector", "predictor")[: 2 + predicts]
    assert params.keys() == {*names}
    apply = jax.jit(functools.partial(run, model, train=True))
    found, moved = apply(params, stats, PICTURES)
    inferred, kept = jax.jit(functools.partial(run, model, train=False))(params, stats, PICTURES)
    assert found.keys() == inferred.keys() == {"features", "projection"} | ({"prediction"} if predicts else set())
    assert found["features"].shape == (4, model.backbone.feature_width) and found["projection"].shape == (4, 5)
    again, _ = run(head(), params["projector"], stats.get("projector", {}), found["features"], train=True)
    np.testing.assert_allclose(found["projection"], again, rtol=1e-11, atol=1e-11)
    features, _ = run(model, params, stats, PICTURES, train=True, method="features")
    np.testing.assert_allclose(found["features"], features, rtol=1e-11, atol=1e-11)
    jax.tree.map(np.testing.assert_array_equal, kept, stats)
    assert bool(stats) == isinstance(backbone, ResNetConfig)
    for (path, old), (_, new) in zip(paths.leaves(stats), paths.leaves(moved), strict=True):
        assert (np.asarray(old) != np.asarray(new)).any(), path


def test_every_leaf_has_axes_and_equal_models_are_equal():
    build = lambda: Siamese(ResNetConfig((1,), width=4).build(IMAGES, WIDE), MlpHead((6, 5)))
    assert build() == build() and hash(build()) == hash(build())
    for tree in jax.eval_shape(functools.partial(variables, build()), jax.random.key(0), PICTURES):
        for path, leaf in paths.leaves(tree):
            assert len(leaf.names) == len(leaf.value.shape), path


def test_classifier():
    model = Classifier(VitConfig(8, 1, 2, patch=4).build(IMAGES, WIDE), 7, WIDE)
    params, _ = made(model, PICTURES)
    found, _ = run(model, params, {}, PICTURES, train=False)
    head = params["classes"]
    np.testing.assert_allclose(found["logits"], found["features"] @ head["kernel"] + head["bias"], rtol=1e-11)
    assert found["logits"].shape == (4, 7)
