"""The printed table of leaves: every number in it, and that its columns line up."""

import re

import jax
import jax.numpy as jnp

from pretrainx.core import axes, paths
from pretrainx.core.images import Images
from pretrainx.core.schedule import Ramp
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.optim.optimizer import AdafactorConfig, AdamWConfig, Group, LARSConfig, MuonConfig, Optimizer
from pretrainx.optim.table import HEADER, lines
from toys.leaves import AXES, LEAVES, SHAPES

RATE = Ramp(1.0, 1.0, 1)


def cells(config, frozen=frozenset()):
    """{first column: the other columns}"""
    rows = [re.split(r" {2,}", line) for line in lines(Optimizer(config, RATE, 0.0, AXES), SHAPES, frozen)]
    assert tuple(rows[0]) == HEADER
    return {name: rest for name, *rest in rows[1:]}


def test_rows_and_sums():
    groups = (Group(role="head", rate=0.25), Group("layers/.*", "kernel", 0.5, 2.0), Group(".*query.*", decay=3.0))
    found = cells(MuonConfig(groups=groups), frozenset({"token/table"}))
    total = 6 + 120 + 3 + 18 + 180 + 30 + 180 + 216 + 1 + 120 + 288
    assert list(found) == [*sorted(LEAVES), "trained", "frozen", "all"]
    assert found["layers/query/kernel"] == ["kernel", "3 x [6, 10]", "1,2", "muon", "0.5", "0.6", "180", "15.49%"]
    assert found["head/kernel"] == ["head", "[6, 20]", "0", "adam", "0.25", "0.1", "120", "10.33%"]
    assert found["token/table"] == ["embedding", "[20, 6]", "-", "frozen", "-", "-", "120", "10.33%"]
    assert found["layers/gain"] == ["scalar", "3 x []", "-", "adam", "1", "0", "3", "0.26%"]
    assert found["trained"] == [f"{total - 120:,}", "89.67%"]
    assert found["frozen"] == ["120", "10.33%"] and found["all"] == [f"{total:,}", "100.00%"]


def test_without_frozen_leaves_one_sum():
    assert list(cells(MuonConfig()))[-1] == "trained"


def test_algorithms():
    update = lambda config: {path: row[3] for path, row in cells(config).items() if path in LEAVES}
    factored = {path for path, what in update(AdafactorConfig(factored_from=7)).items() if what == "factored"}
    assert factored == {"window/kernel"}
    adapted = {path for path, what in update(LARSConfig()).items() if what == "lars"}
    assert adapted == {path for path, leaf in LEAVES.items() if leaf[3] in ("kernel", "head", "embedding")}


def test_aligned():
    """Every column starts or ends at one place: right ends of numbers, left ends of words."""
    table = lines(Optimizer(MuonConfig(), RATE, 0.0, AXES), SHAPES)
    assert len({len(line) for line in table}) == 1
    for name in ("role", "shape", "groups", "update"):
        place = table[0].index(name)
        assert all(line[place - 1] == " " for line in table) and all(line[place] != " " for line in table[1:-1])


def test_of_a_vit_only_matrices_decay():
    """Not what is added to the tokens: positions, class and mask token, biases of the scores."""
    for positions, table in (("learned", "position/table"), ("relative", "relative/table")):
        config = VitConfig(width=8, depth=1, heads=2, patch=4, positions=positions, mask_token=True, layer_scale=0.1)
        model = config.build(Images(8), Precision())
        boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
        shapes = {path: leaf.shape for path, leaf in paths.leaves(axes.unbox(boxes))}
        rows = Optimizer(AdamWConfig(weight_decay=0.1), RATE, 0.0, axes.of_boxed(boxes)).table(shapes)
        decays = {path: decay for path, _, _, _, decay in rows}
        assert {table, "class_token", "mask_token"} <= {*decays}
        assert {path for path, decay in decays.items() if decay} == {path for path in decays if path.endswith("kernel")}
