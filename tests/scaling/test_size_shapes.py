"""Sizes of every family: what is kept as a model grows, and which shape is nearest."""

import itertools
import math
from types import SimpleNamespace

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.runs.plan_changes import changed
from pretrainx.runs.recipe import MODELS, parse
from pretrainx.scaling import grid, shapes
from pretrainx.scaling.shapes import Shape, Size
from pretrainx.scaling.study import StudyConfig

TOWERS = dict(image=dict(name="vit", width=96, depth=6, heads=6), text=dict(width=64, depth=4, heads=4))
FAMILIES = {
    "decoder": (dict(width=96, depth=6, heads=6, kv_heads=2, mlp_width=256), {}, ["model"]),
    "encoder": (dict(width=64, depth=4, heads=4), dict(name="masked_lm"), ["model"]),
    "encoder_decoder": (dict(width=64, depth=4, decoder_depth=2, heads=4), dict(name="denoising"), ["model"]),
    "vit": (dict(width=64, depth=4, heads=4), dict(name="mae"), ["model"]),
    "resnet": (dict(width=64), dict(name="simclr"), ["model"]),
    "visual_tokenizer": (dict(width=64), dict(name="vq_vae"), ["model"]),
    "dual_encoder": (TOWERS, dict(name="clip"), ["model.image", "model.text"]),
    "coca": (TOWERS, dict(name="coca"), ["model.image", "model.text"]),
}
PICTURES = {"mae": "images", "simclr": "images", "vq_vae": "images", "clip": "pairs", "coca": "pairs"}


def values_of(name, **mesh):
    model, objective, _ = FAMILIES[name]
    data = dict(name=PICTURES.get(objective.get("name"), "text"))
    data |= dict(source="shapes") if data["name"] != "text" else dict(specials=("mask", "bos"), sentinels=8)
    train = dict(steps=1000, batch_size=8)
    return dict(train=train, objective=objective, model={"name": name, **model}, data=data, mesh=mesh)


def study(**given):
    return StudyConfig(smallest=1e12, **given)


def some(recipe, given, count=12):
    return list(itertools.islice(shapes.grown(recipe, given), count))


def section(recipe, path):
    for name in path.split("."):
        recipe = getattr(recipe, name)
    return recipe


def test_every_family_is_asked():
    assert set(FAMILIES) == set(MODELS)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_keeps(name):
    values = values_of(name)
    base, slack = parse(values), 1.5
    found = some(base, study(slack=slack))
    assert len({tuple(shape.changes.items()) for shape in found}) == 12
    for shape in found:
        grown = parse(changed(values, tuple(shape.changes.items())))
        for path in FAMILIES[name][2]:
            old, new = section(base, path), section(grown, path)
            assert old.width != new.width or old == new or new.depth != old.depth
            if not hasattr(old, "heads"):
                continue
            assert new.head_size == old.head_size and new.heads * new.head_size == new.width
            assert new.heads / new.shared_heads == old.heads / old.shared_heads
            assert math.isclose(new.mlp_size / new.width, old.mlp_size / old.width, rel_tol=0.5)
        lead, was = section(grown, FAMILIES[name][2][0]), section(base, FAMILIES[name][2][0])
        if hasattr(lead, "depth"):
            exact = was.depth * lead.width / was.width
            assert exact / slack <= lead.depth <= exact * slack or lead.depth == max(1, round(exact))
            assert shape.off == pytest.approx(abs(math.log(lead.width / lead.depth / (was.width / was.depth))))
    assert shapes.towers(base.model).keys() == set(FAMILIES[name][2])


def test_width_and_depth_alone():
    recipe = parse(values_of("decoder"))
    assert {shape.changes["model.depth"] for shape in some(recipe, study(rule="width"))} == {6}
    deeper = some(recipe, study(rule="depth"), 4)
    assert [shape.changes["model.depth"] for shape in deeper] == [1, 2, 3, 4]
    assert {shape.changes["model.width"] for shape in deeper} == {96}
    with pytest.raises(ConfigError, match="no depth"):
        some(parse(values_of("resnet")), study(rule="depth"))


def test_the_mesh_divides_what_is_planned():
    """Heads by tensor ways, blocks by stages; and widths are multiples of what was asked for."""
    found = some(parse(values_of("decoder", tensor=2, stage=2)), study())
    assert all(shape.changes["model.kv_heads"] % 1 == 0 and shape.changes["model.heads"] % 6 == 0 for shape in found)
    assert all(shape.changes["model.depth"] % 2 == 0 for shape in found)
    wide = some(parse(values_of("encoder")), study(width_multiple=128))
    assert all(shape.changes["model.width"] % 128 == 0 for shape in wide)


def test_a_shared_space_as_wide_as_the_picture():
    values = values_of("dual_encoder")
    values["model"] |= dict(projection="text", embedding=96)
    for shape in some(parse(values), study()):
        assert shape.changes["model.embedding"] == shape.changes["model.image.width"]


def size(parameters, off=0.0):
    return Size(Shape({"model.width": round(parameters)}, off), float(parameters), 6.0 * parameters, SimpleNamespace())


def test_the_nearest_shape():
    sizes = [size(100), size(200), size(400), size(390, off=1.0)]
    assert shapes.nearest(sizes, 210).parameters == 200
    assert shapes.nearest(sizes, 392).parameters == 400  # a ratio off by e costs more than 2 % of N
    assert shapes.nearest(sizes, 150, (sizes[1],)).parameters == 100
    assert shapes.nearest(sizes[:1], 5, (sizes[0],)) is None


def test_what_is_not_counted_is_refused():
    shapes.refuse_unknown(("total",), "total", "counted")
    with pytest.raises(ConfigError, match="'hidden' is not counted for this model"):
        shapes.refuse_unknown(("total",), "hidden", "counted")
    with pytest.raises(ConfigError, match="does not count its FLOPs") as caught:
        shapes.refuse_unknown((), "model", "convention")
    assert "--grid" in caught.value.do


def test_sizes_are_even_in_log():
    sizes = [size(1.01**step) for step in range(1, 2000)]
    found = shapes.spread(sizes, 1000.0, study(sizes=5, spread=4.0))
    assert [each.parameters for _, each in found] == pytest.approx([250, 500, 1000, 2000, 4000], rel=0.01)
    assert len(shapes.spread(sizes[:3], 1.02, study(sizes=5))) == 3


def test_a_list_of_shapes():
    given = study(rule="list", shapes=("model.width=64 model.depth=2", "model.width=32; objective.decoder_depth=1"))
    found = shapes.listed(given, grid.overrides)
    assert found[0].changes == {"model.width": 64, "model.depth": 2} and found[0].words() == "64 x 2"
    with pytest.raises(ConfigError, match="train.steps"):
        shapes.listed(study(rule="list", shapes=("train.steps=3",)), grid.overrides)
