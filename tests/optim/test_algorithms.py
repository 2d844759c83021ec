"""Every optimizer on a stack and on folded heads against optax's own on each layer's matrix, and two against numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import muon

from pretrainx.core import config as strict
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Ramp, WarmupCosine
from pretrainx.optim.optimizer import (
    OPTIMIZERS,
    AdafactorConfig,
    AdamWConfig,
    Group,
    LARSConfig,
    LionConfig,
    MuonConfig,
    Optimizer,
    SGDConfig,
)
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from toys.leaves import AXES, LEAVES, SHAPES

RATE, CLIP, DECAY = WarmupCosine(0.1, 2, 6), 15.0, 0.3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tree(seed):
    rng = np.random.default_rng(seed)
    return paths.from_leaves((path, np.asarray(rng.standard_normal(shape))) for path, shape in SHAPES.items())


def singles(whole):
    """{(path, layer): one layer's vector or matrix}: what a model without scan and without separate heads would hold."""
    found = {}
    for path, leaf in paths.leaves(whole):
        one = LEAVES[path][2]
        layers = np.asarray(leaf) if path.startswith("layers/") else [leaf]
        found |= {f"{path}:{layer}": np.reshape(part, one) for layer, part in enumerate(layers)}
    return found


def by_role(*roles):
    """A mask of single leaves."""
    return lambda leaves: {name: LEAVES[name.split(":")[0]][3] in roles for name in leaves}


MATRICES = by_role("kernel", "head", "embedding")
KINDS = lambda leaves: {name: "hidden" if LEAVES[name.split(":")[0]][3] == "kernel" else "rest" for name in leaves}


def close(found, wanted, gap=1e-9):
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=gap, atol=gap, err_msg=name)


def run(chain, params, update, steps=3):
    """Parameters after some steps of gradients that differ in size from step to step."""
    state, update, now = jax.jit(chain.init)(params[0]), jax.jit(update), params[0]
    for step in range(steps):
        gradient = jax.tree.map(lambda x, scale=2.0**-step: x * scale, params[step + 1])
        now, state = update(gradient, state, now)
    return now, state


def ours(config, rate=RATE, clip=CLIP):
    chain = Optimizer(config, rate, clip, AXES)
    return run(chain, [tree(seed) for seed in range(4)], chain.update)


def theirs(transform):
    chain = optax.chain(optax.clip_by_global_norm(CLIP), transform)

    def update(gradients, state, params):
        updates, state = chain.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return run(chain, [singles(tree(seed)) for seed in range(4)], update)[0]


def lars_reference(**more):
    return optax.lars(RATE, DECAY, MATRICES, 0.02, trust_ratio_mask=MATRICES, momentum=0.8, **more)


def adafactor_reference(least, rate=RATE, **more):
    return optax.adafactor(rate, least, **more)


FLAT = Ramp(0.1, 0.1, 1)
# optax.adafactor puts momentum after the rate and adds decay that no rate multiplies: compared at one rate, without decay.
CASES = {
    "adamw": (
        AdamWConfig(0.8, 0.9, 1e-6, DECAY),
        RATE,
        lambda: optax.adamw(RATE, 0.8, 0.9, 1e-6, weight_decay=DECAY, mask=MATRICES),
    ),
    "lion": (
        LionConfig(0.8, 0.9, DECAY),
        RATE,
        lambda: optax.lion(RATE, 0.8, 0.9, weight_decay=DECAY, mask=MATRICES),
    ),
    "sgd": (SGDConfig(0.8), RATE, lambda: optax.chain(optax.trace(0.8), optax.scale_by_learning_rate(RATE))),
    "sgd nesterov": (SGDConfig(0.8, nesterov=True), RATE, lambda: optax.sgd(RATE, 0.8, nesterov=True)),
    "sgd coupled": (
        SGDConfig(0.8, DECAY, coupled=True),
        RATE,
        lambda: optax.chain(optax.add_decayed_weights(DECAY, MATRICES), optax.sgd(RATE, 0.8)),
    ),
    "lars": (LARSConfig(0.8, trust=0.02, weight_decay=DECAY), RATE, lars_reference),
    "lars nesterov": (
        LARSConfig(0.8, True, 0.02, weight_decay=DECAY),
        RATE,
        lambda: lars_reference(nesterov=True),
    ),
    "adafactor": (AdafactorConfig(factored_from=2), RATE, lambda: adafactor_reference(2)),
    "adafactor in part": (AdafactorConfig(factored_from=7), RATE, lambda: adafactor_reference(7)),
    "adafactor absolute": (
        AdafactorConfig(0.7, factored_from=2, clip_rms=0.5, relative=False, momentum=0.8),
        FLAT,
        lambda: adafactor_reference(
            2,
            FLAT,
            decay_rate=0.7,
            clipping_threshold=0.5,
            multiply_by_parameter_scale=False,
            momentum=0.8,
            dtype_momentum=jnp.float64,
        ),
    ),
    "muon": (
        MuonConfig(0.8, 0.9, 1e-6, DECAY, momentum=0.7),
        RATE,
        lambda: optax.partition(
            {
                "hidden": muon(RATE, beta=0.7, weight_decay=DECAY, consistent_rms=0.2),
                "rest": optax.adamw(RATE, 0.8, 0.9, 1e-6, weight_decay=DECAY, mask=MATRICES),
            },
            KINDS,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_optax_on_each_layer(name):
    """Three clipped steps of a stack are those of optax's own optimizer on 2-D matrices and 1-D vectors, one per layer."""
    config, rate, reference = CASES[name]
    after, _ = ours(config, rate)
    close(singles(after), theirs(reference()))
    # At these sizes the clip is active in the first step and not in the last: both are covered.
    norms = [float(optax.global_norm(tree(seed))) * 2.0 ** (1 - seed) for seed in (1, 2, 3)]
    assert norms[0] > CLIP > norms[2]


def test_sgd_decay_beside_the_momentum():
    """Not coupled, decay takes rate * decay * w of each step, however much momentum there is."""
    after, _ = ours(SGDConfig(0.8, DECAY), clip=0.0)
    wanted = {path: np.asarray(leaf) for path, leaf in paths.leaves(tree(0))}
    momentum = dict.fromkeys(LEAVES, 0.0)
    for step, rate in enumerate([0.05, 0.1, 0.1]):
        for path, leaf in paths.leaves(tree(step + 1)):
            momentum[path] = 0.8 * momentum[path] + np.asarray(leaf) * 2.0**-step
            decay = DECAY if LEAVES[path][3] in ("kernel", "head", "embedding") else 0.0
            wanted[path] = wanted[path] - rate * (momentum[path] + decay * wanted[path])
    close(dict(paths.leaves(after)), wanted)


def test_lars_formula():
    """You et al. 2017, algorithm 1, in numpy: the norms are those of one layer; vectors and scalars take momentum steps."""
    after, _ = ours(LARSConfig(0.8, trust=0.02, weight_decay=DECAY), clip=0.0)
    wanted = {name: np.asarray(leaf) for name, leaf in singles(tree(0)).items()}
    velocity = dict.fromkeys(wanted, 0.0)
    for step, rate in enumerate([0.05, 0.1, 0.1]):
        for name, gradient in singles(tree(step + 1)).items():
            gradient, weight, local = np.asarray(gradient) * 2.0**-step, wanted[name], 1.0
            if MATRICES([name])[name]:
                gradient = gradient + DECAY * weight
                local = 0.02 * np.sqrt((weight**2).sum()) / np.sqrt((gradient**2).sum())
            velocity[name] = 0.8 * velocity[name] + rate * local * gradient
            wanted[name] = weight - velocity[name]
    close(singles(after), wanted)


def test_adafactor_formula():
    """Shazeer & Stern 2018, algorithms 4 and 5, in numpy, with Zhai et al.'s limit of the decay and decoupled decay."""
    after, _ = ours(AdafactorConfig(b2_max=0.3, factored_from=2, weight_decay=DECAY), clip=0.0)
    wanted = {name: np.asarray(leaf) for name, leaf in singles(tree(0)).items()}
    rows, columns, whole = (dict.fromkeys(wanted, 0.0) for _ in range(3))
    for step, rate in enumerate([0.05, 0.1, 0.1]):
        b2 = min(1 - (step + 1) ** -0.8, 0.3)
        for name, gradient in singles(tree(step + 1)).items():
            gradient, weight = np.asarray(gradient) * 2.0**-step, wanted[name]
            square = gradient**2 + 1e-30
            if matrix := MATRICES([name])[name]:
                rows[name] = b2 * rows[name] + (1 - b2) * square.sum(1)
                columns[name] = b2 * columns[name] + (1 - b2) * square.sum(0)
                moment = np.outer(rows[name], columns[name]) / rows[name].sum()
            else:
                moment = whole[name] = b2 * whole[name] + (1 - b2) * square
            update = gradient / np.sqrt(moment)
            update = update / max(1.0, np.sqrt((update**2).mean())) * max(1e-3, np.sqrt((weight**2).mean()))
            wanted[name] = weight - rate * (update + (DECAY * weight if matrix else 0))
    close(singles(after), wanted, 1e-6)  # the decay's power is float32


@functools.cache
def small(name):
    """The optimizer of a name at sizes where everything that it does is done."""
    return {"adafactor": AdafactorConfig(factored_from=2, momentum=0.5)}.get(name, OPTIMIZERS[name]())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stack_is_its_layers(name):
    """A leaf [L, ...] moves exactly as L leaves of their own would."""
    after, _ = ours(small(name))
    apart = lambda whole: paths.from_leaves(
        (path.replace("layers", f"layer_{index}") if stacked else path, part)
        for path, leaf in paths.leaves(whole)
        for stacked in [path.startswith("layers/")]
        for index, part in enumerate(np.asarray(leaf) if stacked else [leaf])
    )
    names = tuple(
        (path.replace("layers", f"layer_{index}"), names[1:]) if path.startswith("layers/") else (path, names)
        for path, names in AXES
        for index in range(3 if path.startswith("layers/") else 1)
    )
    chain = Optimizer(small(name), RATE, CLIP, names)
    wanted, _ = run(chain, [apart(tree(seed)) for seed in range(4)], chain.update)
    close(dict(paths.leaves(apart(after))), dict(paths.leaves(wanted)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_a_mesh(name):
    """Split over eight devices the steps are the same, moments lie like their parameters, and only these."""
    rules = Rules(make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8]))
    chain, whole = Optimizer(small(name), RATE, CLIP, AXES), rules.replicated()
    placed = paths.from_leaves((path, rules.sharding(names, LEAVES[path][1])) for path, names in AXES)
    params, *gradients = (jax.device_put(tree(seed), placed) for seed in range(4))
    shardings = chain.shardings(jax.eval_shape(chain.init, params), params, placed, whole)
    state = jax.jit(chain.init, out_shardings=shardings)(params)
    update = jax.jit(chain.update, out_shardings=(placed, shardings))
    for step, gradient in enumerate(gradients):
        params, state = update(jax.tree.map(lambda x, scale=2.0**-step: x * scale, gradient), state, params)
    close(dict(paths.leaves(params)), dict(paths.leaves(ours(small(name))[0])))
    like = 0
    for path, leaf in paths.leaves(paths.names_of(state)):
        owner = next((known for known in SHAPES if path.endswith("/" + known)), None)
        same = owner is not None and leaf.shape == SHAPES[owner]
        like += same
        wanted = dict(paths.leaves(placed))[owner] if same else whole
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), path
    assert like >= len(LEAVES)


def test_adafactor_state():
    """Two vectors per layer's matrix and nothing as large as it; by leaf, optax would keep [layers, ...] statistics."""
    _, state = ours(AdafactorConfig(factored_from=7))
    moment = paths.names_of(state)["adafactor"]["moment"]
    shapes = {name: {path: leaf.shape for path, leaf in paths.leaves(moment[name])} for name in ("v_row", "v_col", "v")}
    assert shapes["v_row"] == {"window/kernel": (8,)} and shapes["v_col"] == {"window/kernel": (36,)}
    assert shapes["v"] == {path: shape for path, shape in SHAPES.items() if path != "window/kernel"}
    _, state = ours(AdafactorConfig(factored_from=6))
    moment = paths.names_of(state)["adafactor"]["moment"]
    assert moment["v_row"]["layers"]["query"]["kernel"].shape == (3, 6)
    assert moment["v_col"]["layers"]["out"]["kernel"].shape == (3, 10)
    assert "kernel" not in moment["v"]["layers"]["query"] and "up" not in moment["v"]["layers"]
    assert moment["v"]["layers"]["norm"]["scale"].shape == (3, 6)
    assert moment["v"]["layers"]["query"]["bias"].shape == (3, 2, 5)
    assert moment["count"] == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_gradients_are_harmless(name):
    """Dead leaves: no division by a norm or moment of zero. Without decay nothing moves."""
    config = small(name).__class__(weight_decay=0.0)
    chain = Optimizer(config, RATE, CLIP, AXES)
    zero = jax.tree.map(jnp.zeros_like, tree(0))
    init, update = jax.jit(chain.init), jax.jit(chain.update)
    for params in (tree(0), zero):
        after, state = update(zero, init(params), params)
        close(dict(paths.leaves(after)), dict(paths.leaves(params)), 0)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_groups_by_role():
    """A head's own rate under Muon, whatever its path; pattern and role must both hold; groups multiply."""
    groups = (Group(role="head", rate=0.25), Group("layers/.*", "kernel", 0.5, 2.0), Group(".*query.*", decay=3.0))
    table = {row[0]: row for row in Optimizer(MuonConfig(groups=groups), RATE, 0.0, AXES).table(SHAPES)}
    assert {path: row[3] for path, row in table.items() if row[3] != 1} == {
        "head/kernel": 0.25,
        "layers/out/kernel": 0.5,
        "layers/query/kernel": 0.5,
        "layers/up/kernel": 0.5,
    }
    decays = {path: round(row[4] / 0.1, 9) for path, row in table.items() if row[4]}
    assert decays == {
        "head/kernel": 1,
        "layers/out/kernel": 2,
        "layers/query/kernel": 6,
        "layers/up/kernel": 2,
        "token/table": 1,
        "window/kernel": 1,
    }
    plain, grouped = (ours(MuonConfig(weight_decay=0.0, groups=which), FLAT)[0] for which in ((), groups))
    moved = lambda after, path: dict(paths.leaves(after))[path] - dict(paths.leaves(tree(0)))[path]
    for path in LEAVES:
        np.testing.assert_allclose(moved(grouped, path), table[path][3] * moved(plain, path), rtol=1e-9, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_moment_that_never_forgets_is_refused(name):
    """At 1 the bias correction divides by 1 - 1, and momentum without it never moves or grows without end."""
    for key in {"b1", "b2", "momentum"} & {field.name for field in dataclasses.fields(OPTIMIZERS[name])}:
        with pytest.raises(ConfigError, match=f"{key}: 1.0 must be below 1"):
            strict.parse(OPTIMIZERS[name], {key: 1.0})
        assert getattr(strict.parse(OPTIMIZERS[name], {key: 0.999}), key) == 0.999


def test_group_whose_role_matches_nothing_refused():
    with pytest.raises(ConfigError, match="no parameter that 'layers/.*' matches has the role 'head'") as caught:
        Optimizer(AdamWConfig(groups=(Group("layers/.*", "head"),)), RATE, 0.0, AXES)
    assert caught.value.where == "config.optimizer.groups" and "bias, kernel, norm, scalar" in caught.value.why
