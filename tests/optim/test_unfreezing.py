"""Gradual unfreezing: what has not joined is as if it were not there, and what joins late begins as the first did."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Ramp
from pretrainx.optim.optimizer import AdamWConfig, Group, LARSConfig, MuonConfig, Optimizer, SGDConfig

EVERY, UPDATES, RATE = 2, 9, 0.5
AXES = (
    ("head/kernel", ("embed", "classes")),
    ("layers/up/kernel", ("layers", "embed", "mlp")),
    ("token/table", ("vocab", "embed")),
)
SHAPES = {"head/kernel": (4, 2), "layers/up/kernel": (3, 4, 5), "token/table": (6, 4)}
# When each part joins: the head at once, then the blocks from the last one down, the table at the end.
STARTS = {"head/kernel": (0,), "layers/up/kernel": (6, 4, 2), "token/table": (8,)}
GROUP = Group(unfreeze_every=EVERY)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tree(seed):
    rng = np.random.default_rng(seed)
    return paths.from_leaves((path, jnp.asarray(rng.standard_normal(shape))) for path, shape in SHAPES.items())


def trained(config, clip=0.0):
    """Parameters before each update and after the last."""
    chain, params = Optimizer(config, Ramp(RATE, RATE, 1), clip, AXES, tuple(SHAPES.items())), tree(0)
    state, seen = chain.init(params), [params]
    for update in range(UPDATES):
        params, state = chain.update(tree(1 + update), state, params)
        seen.append(params)
    return [dict(paths.leaves(each)) for each in seen]


def parts(leaf, path):
    """[(what joins at one time, its start)] of a leaf."""
    return [(leaf[index] if len(STARTS[path]) > 1 else leaf, start) for index, start in enumerate(STARTS[path])]


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (
            AdamWConfig(b1=0.9, b2=0.99, weight_decay=0.1, groups=(GROUP,)),
            lambda decay: optax.adamw(RATE, 0.9, 0.99, 1e-8, weight_decay=decay),
        ),
        (SGDConfig(momentum=0.9, groups=(GROUP,)), lambda decay: optax.sgd(RATE, 0.9)),
    ],
    ids=["adamw", "sgd"],
)
def test_each_part_is_trained_from_its_own_start_on(config, reference):
    seen = trained(config)
    for path in SHAPES:
        decay = 0.1 if path != "token/table" or "embedding" in config.decays else 0.0
        for index, start in enumerate(STARTS[path]):
            whole = lambda update, index=index, path=path: np.asarray(parts(seen[update][path], path)[index][0])
            assert all(np.array_equal(whole(update), whole(0)) for update in range(start + 1))
            optimizer, params = reference(decay), jnp.asarray(whole(0))
            state = optimizer.init(params)
            for update in range(start, UPDATES):
                gradient = parts(dict(paths.leaves(tree(1 + update)))[path], path)[index][0]
                updates, state = optimizer.update(gradient, state, params)
                params = optax.apply_updates(params, updates)
            # Adam's epsilon is scaled with the correction: small gradients show it.
            assert np.abs(whole(UPDATES) - params).max() < 1e-5, (path, index)


def test_gradients_of_what_has_not_joined_do_not_count_for_clipping():
    first = trained(SGDConfig(momentum=0.0, groups=(GROUP,)), clip=1e-3)
    moved = np.asarray(first[1]["head/kernel"] - first[0]["head/kernel"])
    assert np.isclose(np.linalg.norm(moved), RATE * 1e-3, rtol=1e-6)


@pytest.mark.parametrize("config", [MuonConfig(groups=(GROUP,)), LARSConfig(groups=(GROUP,))])
def test_other_optimizers_are_refused(config):
    with pytest.raises(ConfigError, match="gradual unfreezing is for adamw and sgd"):
        trained(config)


def test_what_is_no_stack_is_refused():
    with pytest.raises(ConfigError, match="without layers"):
        trained(AdamWConfig(groups=(Group("head/.*", unfreeze_every=3),)))
