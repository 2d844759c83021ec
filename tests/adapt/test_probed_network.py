"""The linear probe: heads alone are trained, on a network that runs as in evaluation."""

import jax
import numpy as np
import pytest
from adapt.subjects import GPT2, built, trained

from pretrainx.adapt.linear_probe import LinearProbeConfig
from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.training import state as states

IMAGES = Images(8, 3, ("a", "b", "c"), (0.5, 0.4, 0.6), (0.3, 0.2, 0.25))
NETWORKS = {
    "resnet": ResNetConfig(stages=(1,), width=8),
    "vit": VitConfig(width=8, depth=1, heads=2, patch=4, dropout=0.5, drop_path=0.5),
}


def classifier(name):
    augment = AugmentConfig("probe")
    return ClassificationConfig(augment).build(NETWORKS[name], IMAGES, Precision("float64", "float64"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_alone_is_trained(name):
    inner = classifier(name)
    count, found = trained(LinearProbeConfig().wrap(inner))
    width = 8 if name == "vit" else inner.model.backbone.feature_width
    assert count == (width + 1) * 3 and found == {"classes/kernel", "classes/bias"}


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_stands_still(name):
    """Neither dropout nor statistics of the batch: training's losses are evaluation's, and no statistics move."""
    inner = classifier(name)
    probe = LinearProbeConfig().wrap(inner)
    batch = states.example_batch(probe, 6)
    rng = np.random.default_rng(0)
    batch |= {"image": rng.integers(0, 256, batch["image"].shape).astype(np.uint8), "valid": np.ones(6, bool)}
    key = jax.random.key(0)
    params, extras = axes.unbox(inner.init(key, batch)), axes.unbox(inner.start(key, inner.init(key, batch), batch)[1])
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params)
    keys = probe.row_keys(key, batch)
    seen = probe.observe_rows(keys, batch, 0)
    scored = lambda objective, train: objective.encode(params, extras, seen, keys, 0, train=train)
    trains, rests = scored(probe, True), scored(inner, False)
    np.testing.assert_array_equal(trains.per_row["nll"], rests.per_row["nll"])
    assert not list(paths.leaves(trains.extras))
    assert np.abs(trains.per_row["nll"] - scored(inner, True).per_row["nll"]).max() > 1e-3


def test_an_objective_without_a_head_is_refused():
    with pytest.raises(ConfigError, match="no head to train") as caught:
        LinearProbeConfig().wrap(built(GPT2))
    assert caught.value.where == "config.adapt.name" and "Autoregressive" in caught.value.why
