"""muP's part of the optimizer: rates, decays and epsilon by role and axes, and the optimizers that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Ramp
from pretrainx.optim.mup import Mup, check
from pretrainx.optim.optimizer import OPTIMIZERS, AdafactorConfig, AdamWConfig, Group, LionConfig, MuonConfig, Optimizer
from toys.leaves import AXES, LEAVES, SHAPES

RATE, FOUR = Ramp(1.0, 1.0, 1), Mup(4.0, 2.0)
KERNELS = {path for path, leaf in LEAVES.items() if leaf[3] == "kernel"}
OTHERS = {  # path: (axes, rate under Adam, rate under Muon), at four times the base's width
    "patches/kernel": (("patch", "embed"), 1.0, 1.0),
    "layers/query/a": (("layers", "embed", "rank"), 0.25, 0.25),
    "layers/query/b": (("layers", "rank", "heads", "head_dim"), 1.0, 1.0),
    "layers/mlp/down/kernel": (("layers", "experts", "mlp", "embed"), 0.25, 0.5),
    "layers/mlp/router/kernel": (("layers", "embed", "routes"), 1.0, 1.0),
    "relative/table": (("bucket", "heads"), 1.0, 1.0),
    "position/table": (("place", "embed"), 1.0, 1.0),
}


HIDDEN = [(AdamWConfig(), 0.25), (LionConfig(), 0.25), (AdafactorConfig(relative=False), 0.25), (MuonConfig(), 0.5)]


@pytest.mark.parametrize(("config", "hidden"), HIDDEN)
def test_rates_by_role(config, hidden):
    """Hidden kernels alone change; a scanned stack's three dimensions of heads are no more than one matrix."""
    scaled, plain = (Optimizer(config, RATE, 0.0, AXES, mup=mup) for mup in (FOUR, Mup()))
    found, before = ({row[0]: row[3:] for row in each.table(SHAPES)} for each in (scaled, plain))
    assert {path: rate for path, (rate, _) in found.items()} == {
        path: hidden if path in KERNELS else 1.0 for path in LEAVES
    }
    for path, (rate, decay) in found.items():  # rate times decay stays
        assert rate * decay == pytest.approx(before[path][1], rel=1e-12)


@pytest.mark.parametrize(
    ("path", "names", "adam", "muon"), [(path, *rest) for path, rest in OTHERS.items()], ids=OTHERS
)
def test_rates_of_other_leaves(path, names, adam, muon):
    assert FOUR.rate(AdamWConfig(), names) == adam and FOUR.rate(MuonConfig(), names) == muon


def test_groups_multiply():
    config = AdamWConfig(groups=(Group("layers/.*", "kernel", rate=0.5, decay=3.0), Group(role="embedding", rate=7.0)))
    found = Optimizer(config, RATE, 0.0, AXES, mup=FOUR)
    assert found.multipliers("layers/up/kernel") == (0.125, 12.0) and found.multipliers("token/table") == (7.0, 1.0)


def test_epsilon_falls_with_gradients():
    """Gradients smaller by m, in a stack by the ratio of depths too, give the base's update even where epsilon is all."""
    config = AdamWConfig(epsilon=1.0, weight_decay=0.0)
    base, scaled = (Optimizer(config, RATE, 0.0, AXES, mup=mup) for mup in (Mup(), FOUR))
    rng = np.random.default_rng(0)
    gradients = paths.from_leaves(
        [(path, jnp.asarray(rng.normal(size=shape), jnp.float32)) for path, shape in SHAPES.items()]
    )
    zeros = paths.map_leaves(lambda _, leaf: jnp.zeros_like(leaf), gradients)
    smaller = paths.map_leaves(lambda path, leaf: leaf / (8 if path.startswith("layers/") else 4), gradients)
    updated = jax.jit(
        lambda optimizer, gradients: optimizer.update(gradients, optimizer.init(zeros), zeros)[0], static_argnums=0
    )
    wanted, found = updated(base, gradients), updated(scaled, smaller)
    wanted = dict(paths.leaves(wanted))
    for path, leaf in paths.leaves(found):
        np.testing.assert_allclose(leaf, wanted[path] * (0.25 if path in KERNELS else 1.0), rtol=1e-6, err_msg=path)


def test_without_a_base_the_chain_is_the_same():
    """A checkpoint of the standard parametrisation has the states of one at m = 1."""
    plain, one = (Optimizer(AdamWConfig(), RATE, 0.0, AXES, mup=mup) for mup in (Mup(), Mup(1.0, 1.0)))
    assert plain == one and plain.table(SHAPES) == one.table(SHAPES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_optimizers_are_refused(name):
    leaves = tuple((path, names) for path, names in AXES if None not in names)
    if name in ("adamw", "muon", "lion"):
        return check(OPTIMIZERS[name](), leaves)
    with pytest.raises(ConfigError) as caught:
        check(OPTIMIZERS[name](), leaves)
    assert caught.value.where == ("config.optimizer.relative" if name == "adafactor" else "config.optimizer.name")
    check(AdafactorConfig(relative=False), leaves)


def test_unknown_axes_are_refused():
    with pytest.raises(ConfigError, match="'features'"):
        check(AdamWConfig(), (("head/kernel", ("embed", "features")),))
    with pytest.raises(ConfigError, match="window/kernel"):
        check(AdamWConfig(), AXES)
