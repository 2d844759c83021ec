"""One config at several widths, and which runs may be scaled from a base at all."""

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.optim.mup import Mup
from pretrainx.runs.recipe import parse
from pretrainx.runs.scaled import refuse_multipliers, rules_of
from pretrainx.scaling.widths import resized, standard

MODEL = {"width": 64, "heads": 4, "kv_heads": 2, "mlp_width": 160, "base_width": 32}
TRAIN = {"train": {"steps": 200, "batch_size": 8}}
DECODER = {"model": MODEL, "data": {"source": "stdlib"}, **TRAIN}
IMAGES = {"name": "images"}


def test_heads_grow_in_number():
    found = resized(DECODER, 128)["model"]
    assert (found["width"], found["heads"], found["kv_heads"], found["mlp_width"]) == (128, 8, 4, 320)
    assert parse(resized(DECODER, 128)).model.head_size == parse(DECODER).model.head_size == 16
    assert DECODER["model"]["width"] == 64  # the values that were given are not touched


def test_heads_grow_in_width():
    values = {**DECODER, "model": {**MODEL, "base_head_dim": 8, "head_dim": 16}}
    found = parse(resized(values, 128)).model
    assert (found.heads, found.head_size, found.mlp_size) == (4, 32, 320)


def test_widths_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"no whole number for config\.model\.heads"):
        resized(DECODER, 40)
    with pytest.raises(ConfigError, match="no one width"):
        resized({"model": {"name": "resnet"}, "objective": {"name": "simclr"}, "data": IMAGES, **TRAIN}, 40)


def test_standard_has_no_base():
    values = {**DECODER, "model": {**MODEL, "base_depth": 2, "zero_init": True}}
    found = parse(standard(values)).model
    assert (found.wider, found.deeper, found.zero_init, found.width) == (1.0, 1.0, False, 64)


def test_rules_of_a_run():
    assert rules_of(parse(DECODER), ()) == Mup(2.0, 1.0)
    deep = {**DECODER, "model": {**MODEL, "depth": 6, "base_depth": 2}}
    assert rules_of(parse(deep), ()) == Mup(2.0, 3.0)
    assert rules_of(parse(standard(deep)), ()) == Mup() == rules_of(parse({"model": {"width": 64}, **TRAIN}), ())


VIT = {"name": "vit", "width": 64, "heads": 4, "patch": 4, "base_width": 32}
POST = {"name": "encoder", "width": 64, "depth": 4, "base_depth": 2}
REFUSED = {
    "model.image.base_width": {
        "model": {"name": "dual_encoder", "image": {"base_width": 32}},
        "objective": {"name": "clip"},
        "data": {"name": "pairs"},
    },
    "objective.name": {"model": VIT, "objective": {"name": "mae"}, "data": IMAGES},
    "adapt.name": {**DECODER, "adapt": {"name": "adapter"}},
    "preserve.name": {**DECODER, "preserve": {"name": "l2_sp"}},
    "optimizer.name": {**DECODER, "optimizer": {"name": "sgd"}},
    "model.base_head_dim": {"model": {"width": 64, "base_head_dim": 8}},
    "model.norm_first": {"model": POST, "objective": {"name": "masked_lm"}},
    "model.pool": {"model": {**VIT, "pool": "map"}, "objective": {"name": "classification"}, "data": IMAGES},
    "model.smaller_residual": {
        "model": {**VIT, "base_width": 0, "base_depth": 6, "smaller_residual": True},
        "objective": {"name": "classification"},
        "data": IMAGES,
    },
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_has_no_rule_is_refused(key):
    with pytest.raises(ConfigError) as caught:
        rules_of(parse({**TRAIN, **REFUSED[key]}), ())
    assert caught.value.where == f"config.{key}"


@pytest.mark.parametrize("base", [{"base_width": 32}, {"base_depth": 1}, {"base_width": 64, "base_head_dim": 8}])
def test_multipliers_are_not_exported(base):
    model = {"width": 64, "heads": 4, "depth": 4}
    with pytest.raises(ConfigError, match="no form there"):
        refuse_multipliers(parse({"model": {**model, **base}, **TRAIN}).model)
    at_base = {"base_width": 64, "base_depth": 4, "base_head_dim": 16}
    refuse_multipliers(parse({"model": {**model, **at_base}, **TRAIN}).model)
