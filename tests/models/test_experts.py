"""The mixture of experts against a plain loop over tokens; what is dropped; both dispatches; what padding may not do."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.experts import Experts, ExpertsConfig, Routing
from pretrainx.models.layers import Precision, Spread

ROWS, LENGTH, WIDTH, HIDDEN, COUNT = 3, 10, 8, 12, 4
SPREAD = Spread(0.3, 0.3, 0.3, 0.3, 0.3)
DOUBLE = Precision("float64", "float64")
FORMS = {
    "two of four, tight": ExpertsConfig(COUNT, 2, capacity=0.6),
    "two of four, room": ExpertsConfig(COUNT, 2, capacity=2.0),
    "one, its probability": ExpertsConfig(COUNT, 1, normalised=False, capacity=0.7),
    "three, probabilities": ExpertsConfig(COUNT, 3, normalised=False, capacity=0.5),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def layer(experts, gated=True, precision=DOUBLE):
    config = DecoderConfig(WIDTH, heads=2, mlp_width=HIDDEN, gated=gated, activation="silu", experts=experts)
    return Experts(config, SPREAD, precision)


def given(module):
    """(parameters, x, real): rows end in padding, one is nothing else."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((ROWS, LENGTH, WIDTH)), module.precision.compute)
    real = np.arange(LENGTH) < np.array([LENGTH, 7, 0])[:, None]
    return axes.unbox(module.init(jax.random.key(1), x)["params"]), x, real


def by_hand(experts, params, x, real):
    """One token after the other: (y, kept bool[B, T, K], Routing of all rows)."""
    kernel = lambda name: np.asarray(params[name]["kernel"])
    silu = lambda z: z / (1 + np.exp(-z))
    y, kept, found = np.zeros_like(x), np.zeros((ROWS, LENGTH, experts.chosen), bool), []
    room = math.ceil(experts.capacity * LENGTH * experts.chosen / COUNT)
    for row in range(ROWS):
        filled, chosen, of_token = np.zeros(COUNT, int), np.zeros(COUNT), []
        for token in np.flatnonzero(real[row]):
            logits = x[row, token] @ kernel("router")
            p = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-p)[: experts.chosen]
            gates = p[best] / p[best].sum() if experts.normalised else p[best]
            of_token.append((p, np.log(np.exp(logits).sum()) ** 2, -(p * np.log(p)).sum()))
            for place, (expert, gate) in enumerate(zip(best, gates, strict=True)):
                chosen[expert] += 1
                if filled[expert] < min(room, LENGTH):
                    filled[expert] += 1
                    kept[row, token, place] = True
                    hidden = silu(x[row, token] @ kernel("gate")[expert]) * (x[row, token] @ kernel("up")[expert])
                    y[row, token] += gate * (hidden @ kernel("down")[expert])
        if not of_token:
            found.append(np.zeros(5))
            continue
        p, z, entropy = (np.mean(each, axis=0) for each in zip(*of_token, strict=True))
        share = chosen / chosen.sum()
        dropped = 1 - kept[row].sum() / (len(of_token) * experts.chosen)
        found.append([COUNT * (share * p).sum(), z, entropy, share.max(), dropped])
    return y, kept, Routing(*np.transpose(found))


first, *others = FORMS


@pytest.mark.parametrize("form", [first, *(pytest.param(form, marks=pytest.mark.slow) for form in others)])
def test_a_loop_over_tokens(form):
    experts = FORMS[form]
    module = layer(experts)
    params, x, real = given(module)
    y, routing = jax.jit(module.apply)({"params": params}, x, real)
    wanted, kept, told = by_hand(experts, params, np.asarray(x), real)
    np.testing.assert_allclose(y, wanted, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), routing, told)
    assert (kept[real].all()) == (form == "two of four, room"), "tokens are really dropped, or none is"


def loss(module, params, x, real):
    y, routing = module.apply({"params": params}, x, real)
    return (jnp.sin(y) * real[..., None]).sum() + routing.balance.sum() + routing.z.sum(), y


@pytest.mark.parametrize("gated", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_both_dispatches_are_one_where_nothing_is_dropped(gated):
    roomy = layer(ExpertsConfig(COUNT, 2, capacity=2.0), gated)
    ragged = layer(ExpertsConfig(COUNT, 2, dispatch="ragged"), gated)
    params, x, real = given(roomy)
    found = []
    for module in (roomy, ragged):
        grad = jax.jit(jax.value_and_grad(lambda p, x, module=module: loss(module, p, x, real), (0, 1), has_aux=True))
        (total, y), gradients = grad(params, x)
        found.append((total, jnp.where(real[..., None], y, 0), gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *found)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(found[0][2])) > 1e-3


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    """The moves have gradients of their own, also where tokens are dropped."""
    module = layer(FORMS["two of four, tight"])
    params, x, real = given(module)
    total = jax.jit(lambda p, x: loss(module, p, x, real)[0])
    gradients = jax.jit(jax.grad(total, (0, 1)))(params, x)
    rng = np.random.default_rng(2)
    towards = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), (params, x))
    step = lambda size: total(*jax.tree.map(lambda leaf, by: leaf + size * by, (params, x), towards))
    wanted = (step(1e-6) - step(-1e-6)) / 2e-6
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, by: (g * by).sum(), gradients, towards)))
    np.testing.assert_allclose(slope, wanted, rtol=1e-7)


def test_rows_tokens_and_padding_keep_to_themselves():
    """What a token gets depends on its own row, on no padding, and on nothing behind it."""
    module = layer(FORMS["two of four, tight"])
    params, x, real = given(module)
    run = jax.jit(lambda x, real: module.apply({"params": params}, x, real))
    y, routing = run(x, real)
    other, _ = run(x.at[1].set(x[0]), real)
    np.testing.assert_array_equal(other[0], y[0])
    behind, _ = run(x.at[:, 6:].add(1.0), real)
    np.testing.assert_array_equal(behind[:, :6], y[:, :6])
    assert np.abs(behind[0, 6:] - y[0, 6:]).max() > 1e-3
    hidden, told = run(jnp.where(real[..., None], x, 9.0), real)
    np.testing.assert_array_equal(np.where(real[..., None], hidden, 0), np.where(real[..., None], y, 0))
    jax.tree.map(np.testing.assert_array_equal, told, routing)
    assert not np.asarray(y)[~real].any()


def test_an_even_router_has_balance_one():
    module = layer(ExpertsConfig(COUNT, 2, capacity=2.0))
    params, x, _ = given(module)
    params["router"]["kernel"] = jnp.zeros((WIDTH, COUNT))
    _, routing = module.apply({"params": params}, x)
    np.testing.assert_allclose(routing.balance, 1.0)
    np.testing.assert_allclose(routing.entropy, math.log(COUNT))
    np.testing.assert_allclose(routing.z, math.log(COUNT) ** 2)
    np.testing.assert_allclose(routing.largest, 0.5)  # equal logits: every token takes the first two


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["capacity", "ragged"])
def test_the_router_stays_wide(dispatch):
    """In bfloat16 the router's logits and what is told of them are float32, and gradients those of float64 but for rounding."""
    experts = ExpertsConfig(COUNT, 2, capacity=2.0, dispatch=dispatch)
    module, exact = layer(experts, precision=Precision("float32", "bfloat16")), layer(experts)
    params, x, real = given(module)
    (total, y), gradients = jax.value_and_grad(lambda p: loss(module, p, x, real), has_aux=True)(params)
    assert y.dtype == jnp.bfloat16
    assert module.apply({"params": params}, x, real)[1].z.dtype == jnp.float32
    wide_total, wide_gradients = jax.value_and_grad(lambda p: loss(exact, p, x.astype(float), real)[0])(params)
    np.testing.assert_allclose(total, wide_total, rtol=2e-2)
    for (path, leaf), (_, wanted) in zip(paths.leaves(gradients), paths.leaves(wide_gradients), strict=True):
        assert leaf.dtype == jnp.float32, path
        assert np.abs(leaf - wanted).max() < 0.03 * np.abs(wanted).max(), path


@pytest.mark.slow
def test_decoding_token_by_token_is_reading_the_row():
    """With places for all; and a tight model decodes as one with places for all."""
    tight = DecoderConfig(16, 2, 2, mlp_width=HIDDEN, experts=ExpertsConfig(COUNT, 2, capacity=0.5))
    roomy = dataclasses.replace(tight, experts=ExpertsConfig(COUNT, 2, capacity=2.0))
    model, other = (Decoder(config, 30, LENGTH, DOUBLE) for config in (roomy, tight))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 30, (2, LENGTH)))
    params = {"params": axes.unbox(model.init(jax.random.key(0), tokens)["params"])}
    whole = model.apply(params, tokens)
    cache, parts = other.cache(2, LENGTH), []
    for begin, end in ((0, 6), (6, 7), (7, LENGTH)):
        logits, cache = other.apply(params, tokens[:, begin:end], cache, method="decode")
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-12)
    assert np.abs(other.apply(params, tokens) - whole).max() > 1e-6, "the tight model drops tokens of a row"


@pytest.mark.parametrize("wrong, where", [(dict(count=2, chosen=3), "chosen"), (dict(count=4, chosen=1), "normalised")])
def test_what_cannot_be_is_refused(wrong, where):
    with pytest.raises(ConfigError) as caught:
        ExpertsConfig(**wrong)
    assert caught.value.where == f"config.model.experts.{where}" and "--config" in caught.value.do
