"""muP and CompleteP in the models: initial spreads by role, logits, scores and branches; nothing changes at the base itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.stack import StackConfig
from pretrainx.models.vit import VitConfig, xavier

WIDE = {"width": 64, "heads": 4, "depth": 1, "vocab_multiple": 1}
FAN_IN = {"initial": "fan_in", "scaled_attention": False, "tied": False}


@pytest.mark.parametrize("kind", [StackConfig, DecoderConfig, EncoderConfig, EncoderDecoderConfig, VitConfig])
def test_nothing_changes_at_the_base(kind):
    """Exactly: factors are 1.0, standard deviations the very same floats."""
    plain = kind(width=96, depth=3, heads=4)
    base = dataclasses.replace(plain, base_width=96, base_depth=3, base_head_dim=24)
    for name in ("wider", "deeper", "readout"):
        assert getattr(base, name) == 1.0
    for name in ("score_scale", "table_std", "head_std", "hidden_std", "tuned_width"):
        assert getattr(base, name) == getattr(plain, name)
    for depth in (3, 5):
        assert base.spread(depth, 1) == plain.spread(depth, 1)


def test_spread():
    """Variance 1 / m by whatever law; depth divides at the start as the base's does, of an uneven decoder in proportion."""
    base = DecoderConfig(width=32, depth=2, heads=2)
    wide = dataclasses.replace(base, width=128, heads=8, depth=6, base_width=32, base_depth=2)
    for name in ("query", "key", "out", "up", "down"):
        assert getattr(wide.spread(6), name) == pytest.approx(getattr(base.spread(2), name) / 2, rel=1e-12)
    assert wide.spread(9).out == pytest.approx(base.spread(3).out / 2, rel=1e-12)
    assert (wide.table_std, wide.head_std, wide.readout, wide.deeper) == (base.table_std, base.head_std, 0.25, 3.0)
    t5 = EncoderDecoderConfig(width=128, heads=8, base_width=32, **FAN_IN)
    small = EncoderDecoderConfig(width=32, heads=2, **FAN_IN)
    assert t5.spread(4).up == small.spread(4).up / 2  # its law has it already
    assert t5.head_std == small.head_std == 32**-0.5 and t5.table_std == 1.0
    vit = VitConfig(width=128, heads=8, base_width=32, initial="xavier")
    assert vit.spread(4).up == xavier(128, 512)
    start = VitConfig(width=128, heads=8, base_width=32)
    assert start.spread(4).up == pytest.approx(start.initial_std / 2, rel=1e-12)


def test_zero_init():
    config = DecoderConfig(zero_init=True, tied=False)
    assert config.spread(4).query == config.head_std == 0.0 and config.spread(4).key > 0
    assert (
        VitConfig(zero_init=True).spread(4).query == VitConfig(zero_init=True, initial="xavier").spread(4).query == 0.0
    )


def test_scores():
    """1 / K times sqrt(base K) where heads grow; 1 / sqrt(K) where they do not."""
    grown = DecoderConfig(width=256, heads=4, base_width=64, base_head_dim=16)
    assert grown.score_scale == pytest.approx(16**0.5 / 64, rel=1e-12)
    assert DecoderConfig(width=256, heads=16, base_width=64).score_scale is None
    assert EncoderDecoderConfig(width=256, heads=4, base_width=64, base_head_dim=16, **FAN_IN).score_scale == 0.25


def made(config):
    """(model, inputs, parameters with their axes) of a family."""
    if isinstance(config, EncoderDecoderConfig):
        model, inputs = config.build(16, 6, 6, Precision()), (jnp.ones((2, 6), jnp.int32), jnp.ones((2, 6), jnp.int32))
    else:
        model, inputs = config.build(16, 6, Precision()), (jnp.arange(12, dtype=jnp.int32).reshape(2, 6),)
    boxes = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    return model, inputs, boxes


def test_start_of_each_role():
    config = DecoderConfig(**WIDE, base_width=16, tied=False, initial_std=0.5, scaled_residual=False)
    _, _, boxes = made(config)
    names = dict(axes.of_boxed(boxes))
    for path, leaf in paths.leaves(axes.unbox(boxes)):
        wanted = {"kernel": 0.25, "embedding": 0.5, "head": 0.5}.get(axes.role(names[path]))
        if wanted:
            assert float(leaf.std()) == pytest.approx(wanted, rel=0.15), path


FAMILIES = {
    "tied": (DecoderConfig(**WIDE), 0.25),
    "untied": (DecoderConfig(**WIDE, tied=False), 0.25),
    "encoder": (EncoderConfig(**WIDE), 0.25),
    "T5 1.0": (EncoderDecoderConfig(**WIDE, scaled_logits=True), 0.5),  # of 1 / sqrt(D) a base of 16 leaves 1 / 4
}


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_divided(name):
    """With the same parameters, by m, whatever the head: the decoder's table, a matrix, the encoder's with its transform."""
    config, wanted = FAMILIES[name]
    model, inputs, boxes = made(config)
    scaled = model.clone(config=dataclasses.replace(config, base_width=16))
    plain, found = (each.apply({"params": axes.unbox(boxes)}, *inputs) for each in (model, scaled))
    np.testing.assert_allclose(found, plain * wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_branches_are_divided_by_depth():
    """One block of a base of two: what attention adds doubles (the MLP's output is switched off)."""
    config = DecoderConfig(**WIDE, initial_std=0.5)
    model, inputs, boxes = made(config)
    off = lambda path, leaf: leaf * 0 if path.startswith("layers/mlp/down") else leaf
    params = paths.map_leaves(off, axes.unbox(boxes))
    scaled = model.clone(config=dataclasses.replace(config, base_depth=2))
    added = []
    for each in (model, scaled):
        x = each.apply({"params": params}, *inputs, method="embed")
        added.append(each.apply({"params": params}, x, method="blocks") - x)
    assert float(jnp.abs(added[0]).max()) > 0.1
    np.testing.assert_allclose(added[1], 2 * added[0], rtol=1e-4, atol=1e-5)
