"""The vector-quantised autoencoder: how codes move and are revived, its gradients, what it learns, and the gate before BEiT."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Sum
from pretrainx.models.layers import Precision
from pretrainx.models.patch_clusters import PatchClusters, fitted
from pretrainx.models.visual_tokenizer import VisualTokenizerConfig, ids_of, pictures_of, quantised
from pretrainx.objectives import codebook
from pretrainx.objectives.dvae import DvaeConfig
from pretrainx.objectives.vq_vae import VqVaeConfig
from toys.masked_pictures import FLOAT64, IMAGES, STILL, VIT, batch_of, shapes, trained

ROWS, CODES, CELLS = 4, 8, 16
MODEL = VisualTokenizerConfig(codes=CODES, code_width=4, patch=4, width=8, blocks=1)


@functools.cache
def made(**changes):
    """(objective, parameters, extras)"""
    objective = VqVaeConfig(**({"augment": STILL} | changes)).build(MODEL, IMAGES, FLOAT64)
    key = jax.random.key(0)
    params, extras = jax.jit(lambda: [axes.unbox(x) for x in objective.start(key, objective.init(key, None), None)])()
    return objective, params, extras


@functools.partial(jax.jit, static_argnums=0)
def scored(objective, params, extras, batch):
    keys = jax.random.split(jax.random.key(1), len(batch["valid"]))
    observation = objective.observe_rows(keys, batch, 0)
    return observation, objective.encode(params, extras, observation, keys, 0, train=True)


def moved(state, counts, sums, fresh, valid, **changes):
    rest = {"decay": 0.9, "epsilon": 1e-5, "revive_below": 0.0, "normalise": False} | changes
    run = lambda *arrays: codebook.moved(*arrays, jax.random.key(2), **rest)
    return jax.jit(run)(state, counts, sums, (fresh, valid))


@pytest.mark.parametrize("normalise", [False, True])
def test_codes_are_running_means(normalise):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        state = {"counts": rng.uniform(1, 5, 6), "sums": rng.standard_normal((6, 3)), "codebook": np.zeros((6, 3))}
        state["used"] = rng.uniform(1, 5, 6)
        counts, sums = np.float64([0, 3, 2, 9, 1, 1]), rng.standard_normal((6, 3))
        after = moved(state, counts, sums, np.zeros((2, 3)), np.ones(2, bool), normalise=normalise)
        count = 0.9 * state["counts"] + 0.1 * counts
        smoothed = (count + 1e-5) / (count.sum() + 6e-5) * count.sum()
        wanted = (0.9 * state["sums"] + 0.1 * sums) / smoothed[:, None]
        if normalise:
            wanted /= np.sqrt(np.square(wanted).sum(1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(after["counts"], count, rtol=1e-12)
        np.testing.assert_allclose(after["used"], 0.9 * state["used"] + 0.1 * counts, rtol=1e-12)
        np.testing.assert_allclose(after["codebook"], wanted, rtol=1e-12)


def test_dead_codes_become_vectors_of_the_batch():
    state = {"counts": np.float32([9, 0.01, 9, 0, 0.2]), "sums": np.ones((5, 2)), "codebook": np.ones((5, 2))}
    state["used"] = state["counts"]
    fresh, valid = np.arange(12.0).reshape(6, 2) + 100, np.array([False, True, True, False, True, False])
    counts = np.float32([10, 0, 10, 0, 0])
    after = moved(state, counts, np.ones((5, 2)), fresh, valid, revive_below=0.1)
    dead = np.array([False, True, False, True, True])
    np.testing.assert_array_equal((np.asarray(after["codebook"]) > 99).all(1), dead)
    revived = np.asarray(after["codebook"])[dead]
    assert sorted(revived[:, 0]) == [102, 104, 108]  # each another one, and none of an invalid row
    np.testing.assert_allclose(np.asarray(after["counts"])[dead], 0.8, rtol=1e-6)  # twice a tenth of the average, 4
    np.testing.assert_allclose(np.asarray(after["sums"])[dead], 0.8 * revived, rtol=1e-6)


def test_revived_codes_that_nobody_chooses_are_counted_as_dead():
    """Of 64 codes 8 are chosen for 200 steps: revival gives the others counts, the figures are of what was chosen."""
    with jax.enable_x64(True):
        objective, _, _ = made()
        counts = np.where(np.arange(64) < 8, 100.0, 0).astype(np.float32)
        collected = {
            "counts": Sum(jnp.asarray(counts)),
            "sums": Sum(jnp.ones((64, 4))),
            "fresh": jnp.ones((ROWS, objective.config.fresh_cells, 4)),
            "valid": jnp.ones(ROWS, bool),
        }
        advance = jax.jit(lambda extras: objective.advance({}, extras, collected, jax.random.key(0), 0)[1])
        extras = {
            "codebook": jnp.ones((64, 4)),
            "sums": jnp.zeros((64, 4)),
            "counts": jnp.zeros(64),
            "used": jnp.zeros(64),
        }
        for _ in range(200):
            extras = advance(extras)
        assert codebook.dead_share(extras["counts"], 0.1) < 0.1  # what the figures were made of
        observation, _ = scored(*made(), batch_of(ROWS))
        model = replace(MODEL, codes=64).build(IMAGES, FLOAT64)
        params = axes.unbox(model.init(jax.random.key(0), observation.inputs["image"])["params"])
        found = scored(replace(objective, model=model), params, extras, batch_of(ROWS))[1].metrics
        assert found["dead"].total / found["dead"].weight == pytest.approx(56 / 64)
        assert found["perplexity"].total / found["perplexity"].weight == pytest.approx(8, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (VqVaeConfig(augment=STILL), MODEL),
        (DvaeConfig(temperature_steps=1, augment=STILL), replace(MODEL, kind="logits")),
    ],
)
def test_running_means_are_not_in_bfloat16(config, model):
    """There a hundredth of a batch adds nothing to a large count."""
    objective = config.build(model, IMAGES, Precision("bfloat16", "bfloat16"))
    _, extras = jax.eval_shape(lambda: objective.start(jax.random.key(0), {}, None))
    assert {leaf.value.dtype for _, leaf in paths.leaves(extras)} == {jnp.dtype("float32")}


def test_what_a_step_collects():
    with jax.enable_x64(True):
        objective, params, extras = made()
        batch = batch_of(ROWS) | {"valid": np.array([True, True, False, True])}
        observation, outcome = scored(objective, params, extras, batch)
        z = objective.model.apply({"params": params}, observation.inputs["image"], method="encode_features")
        z = np.asarray(z).reshape(ROWS, CELLS, 4)
        np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=1e-3)
        ids = np.square(z[:, :, None] - np.asarray(extras["codebook"])).sum(-1).argmin(-1)[[0, 1, 3]]
        np.testing.assert_array_equal(outcome.collected["counts"].array, np.bincount(ids.ravel(), minlength=CODES))
        sums = np.stack([z[[0, 1, 3]][ids == code].sum(0) for code in range(CODES)])
        np.testing.assert_allclose(outcome.collected["sums"].array, sums, atol=1e-12)
        for row, fresh in zip(z, np.asarray(outcome.collected["fresh"]), strict=True):
            assert all(np.abs(row - vector).max(1).min() < 1e-12 for vector in fresh)
        assert set(params) & set(extras) == set() and set(extras) == {"codebook", "counts", "sums", "used"}
        # The first step takes the codebook from the data.
        _, after = objective.advance(params, extras, outcome.collected, jax.random.key(0), 0)
        valid = z[[0, 1, 3]].reshape(-1, 4)
        from_data = [np.abs(valid - code).max(1).min() < 1e-9 for code in np.asarray(after["codebook"])]
        assert sum(from_data) >= CODES - 2


def test_the_decoder_s_gradient_goes_straight_through():
    with jax.enable_x64(True):
        objective, params, extras = made()
        observation, _ = scored(objective, params, extras, batch_of(ROWS))
        image = observation.inputs["image"]
        run = lambda params, method, x: objective.model.apply({"params": params}, x, method=method)

        def loss(params):
            totals = objective.encode(params, extras, observation, keys, 0, train=True).totals
            return totals["reconstruction"] + 0.25 * totals["commitment"]

        def by_hand(params):
            z, back = jax.vjp(lambda params: run(params, "encode_features", image), params)
            codes = extras["codebook"][quantised(z, extras["codebook"])]
            wrong = lambda params, codes: jnp.square(run(params, "decode", codes) - image).mean((1, 2, 3)).sum()
            of_decoder, of_codes = jax.grad(wrong, (0, 1))(params, codes)
            (of_encoder,) = back(of_codes + 0.25 * 2 * (z - codes) / (CELLS * 4))
            return jax.tree.map(jnp.add, of_decoder, of_encoder)

        keys = jax.random.split(jax.random.key(1), ROWS)
        found, wanted = jax.jit(lambda: (jax.grad(loss)(params), by_hand(params)))()
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), found, wanted)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(found))


def test_the_nearest_code_is_found_in_float32():
    close = jnp.asarray([[1.0, 0.0], [1.0, 2**-9]])
    assert quantised(jnp.asarray([1.0, 2**-9], jnp.bfloat16), close) == 1
    network = VisualTokenizerConfig(codes=CODES, patch=4, width=8).build(IMAGES, Precision("float32", "bfloat16"))
    encode = lambda x: network.init_with_output(jax.random.key(0), x, method="encode_features")[0]
    assert jax.eval_shape(encode, jnp.zeros((1, 16, 16, 3))).dtype == jnp.float32


@pytest.mark.parametrize("kind", ["nearest", "logits"])
def test_tokenizers_learn(kind):
    model = VisualTokenizerConfig(kind, codes=32, code_width=16, patch=4, width=32, blocks=1)
    if kind == "nearest":
        objective, steps = VqVaeConfig(augment=STILL).build(model, IMAGES, Precision()), 100
    else:
        weights = {"kl_weight": 1.0, "kl_steps": 100, "temperature_end": 0.25, "temperature_steps": 200}
        objective, steps = DvaeConfig(**weights, augment=STILL).build(model, IMAGES, Precision()), 250
    params, extras, metrics = trained(objective, steps)
    found = codebook.usage(objective.model, objective.tokenizer(params, extras), IMAGES, shapes(128, seed=1))
    if kind == "nearest":  # the other kind has no revival: whether it passes is a matter of tuning
        codebook.gate(found["perplexity"], found["dead"], 32)
    assert found["mse"] < (0.8 if kind == "nearest" else 1.0)
    last = metrics[-1]
    assert last["metric/mse"] < 0.6 * metrics[0]["metric/mse"] and found["perplexity"] > 5


def test_usage_counts_codes_and_errors():
    images = shapes(40)
    centres = jnp.asarray(fitted(IMAGES, images, 4, 6))
    module, tree = PatchClusters(IMAGES, 4, 6), {"codebook": centres}
    found = codebook.usage(module, tree, IMAGES, images, batch_size=16)
    ids = np.asarray(ids_of(module, tree, jnp.asarray(images / 255)))
    share = np.bincount(ids.ravel(), minlength=6) / ids.size
    np.testing.assert_allclose(found["perplexity"], np.exp(-(share * np.log(share)).sum()), rtol=1e-5)
    shown = np.asarray(pictures_of(module, tree, ids))
    np.testing.assert_allclose(found["mse"], np.square((shown - images / 255) / IMAGES.std).mean(), rtol=1e-4)
    assert found["dead"] == 0 and found["mse"] < 0.8
    # Only one of the codes is near: the others are dead, and the gate stays shut.
    collapsed = {"codebook": centres + 1000 * np.arange(6)[:, None]}
    found = codebook.usage(module, collapsed, IMAGES, images)
    assert (round(found["perplexity"], 5), round(found["dead"], 5)) == (1, round(5 / 6, 5))


def test_clusters_are_found():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (5, 2, 2, 3))
    chosen = rng.integers(0, 5, (30, 2, 2))
    images = kinds[chosen].swapaxes(2, 3).reshape(30, 4, 4, 3).astype(np.uint8)
    tree = {"codebook": jnp.asarray(fitted(IMAGES, images, 2, 5))}
    module = PatchClusters(IMAGES, 2, 5)
    ids = ids_of(module, tree, jnp.asarray(images / 255))
    np.testing.assert_allclose(pictures_of(module, tree, ids), images / 255, atol=1e-5)
    with pytest.raises(ValueError, match="5 different patches"):
        fitted(IMAGES, images, 2, 6)


@pytest.mark.parametrize(("perplexity", "dead", "opens"), [(13, 0.2, True), (12.8, 0.2, False), (13, 0.3, False)])
def test_gate(perplexity, dead, opens):
    if opens:
        return codebook.gate(perplexity, dead, 64)
    with pytest.raises(ConfigError, match="collapsed"):
        codebook.gate(perplexity, dead, 64)


def test_perplexity():
    assert codebook.perplexity(jnp.ones(8)) == pytest.approx(8)
    assert codebook.perplexity(jnp.zeros(8)) == codebook.perplexity(jnp.eye(8)[0]) == 1


@pytest.mark.parametrize(
    ("config", "model", "where"),
    [
        (VqVaeConfig(), VIT, "config.model.name"),
        (VqVaeConfig(), VisualTokenizerConfig("logits"), "config.model.kind"),
        (DvaeConfig(), VisualTokenizerConfig(), "config.model.kind"),
        (VqVaeConfig(), VisualTokenizerConfig(patch=32), "config.model.patch"),
    ],
)
def test_refusals(config, model, where):
    with pytest.raises(ConfigError) as caught:
        config.build(model, IMAGES, Precision())
    assert caught.value.where == where


@pytest.mark.parametrize("sizes", [{"patch": 6}, {"patch": 8, "width": 30}])
def test_sizes_that_cannot_be_halved(sizes):
    with pytest.raises(ConfigError, match="halved"):
        VisualTokenizerConfig(**sizes)


def test_sums_of_vectors_are_not_rounded_on_accelerators():
    """Their default would take bfloat16 or TF32 factors: the products with codes, and the sums of those who chose each."""
    with jax.enable_x64(True):
        lines = scored.lower(*made(), batch_of(ROWS)).as_text().splitlines()
    assert sum("dot_general" in line and "HIGHEST, HIGHEST" in line for line in lines) == 2
