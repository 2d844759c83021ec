"""The discrete variational autoencoder: its likelihood, its divergence, its schedules, its codes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.models.visual_tokenizer import VisualTokenizerConfig, ids_of
from pretrainx.objectives.dvae import DvaeConfig, logit_laplace
from toys.masked_pictures import FLOAT64, IMAGES, STILL, batch_of, shapes

ROWS, CODES = 4, 8
MODEL = VisualTokenizerConfig("logits", codes=CODES, code_width=4, patch=4, width=8, blocks=1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made():
    config = DvaeConfig(temperature_steps=10, kl_weight=2.0, kl_steps=4, augment=STILL)
    objective = config.build(MODEL, IMAGES, FLOAT64)
    key = jax.random.key(0)
    params, extras = jax.jit(lambda: [axes.unbox(x) for x in objective.start(key, objective.init(key, None), None)])()
    return objective, params, extras


@functools.partial(jax.jit, static_argnums=(0, 5))
def scored(objective, params, extras, batch, step, train):
    keys = jax.random.split(jax.random.key(1), len(batch["valid"]))
    return objective.encode(params, extras, objective.observe_rows(keys, batch, step), keys, step, train=train)


@pytest.mark.parametrize(("place", "width"), [(0.0, 1.0), (1.5, 0.3)])
def test_likelihood_is_a_density(place, width):
    edges = 1 / (1 + np.exp(-np.linspace(-40, 40, 400_001)))  # even steps of the logit
    x = (edges[1:] + edges[:-1]) / 2
    inside = (x > 0) & (x < 1)
    density = np.exp(-np.asarray(logit_laplace(jnp.asarray(x[inside]), place, math.log(width))))
    assert (density * np.diff(edges)[inside]).sum() == pytest.approx(1, abs=1e-3)


def test_schedules():
    objective, _, _ = made()
    reconstruction, divergence = objective.terms
    assert reconstruction.at(3) == 1
    np.testing.assert_allclose([divergence.at(step) for step in (0, 2, 4, 9)], [0, 1, 2, 2])
    np.testing.assert_allclose([objective.temperature(step) for step in (0, 10, 20)], [1, 1 / 16, 1 / 16])


def test_divergence_from_choosing_alike():
    """0 where all codes have the same logit, ln K for each cell where one has all the chance; per number of the picture."""
    objective, params, extras = made()

    def term(bias):
        layer = {"kernel": jnp.zeros_like(params["to_code"]["kernel"]), "bias": jnp.asarray(bias, float)}
        outcome = scored(objective, params | {"to_code": layer}, extras, batch_of(ROWS), 0, True)
        return float(outcome.totals["kl"]) / ROWS

    assert term([0.0] * CODES) == pytest.approx(0, abs=1e-12)
    assert term([90.0] + [0.0] * (CODES - 1)) == pytest.approx(math.log(CODES) * 16 / (16 * 16 * 3))


def test_noise_mixes_codes_in_training_only():
    objective, params, extras = made()
    batch = batch_of(ROWS)
    total = lambda step, train: float(scored(objective, params, extras, batch, step, train).totals["reconstruction"])
    assert total(0, False) == total(10, False)
    assert len({total(0, False), total(0, True), total(10, True)}) == 3


def test_codes_are_the_largest_logits():
    objective, params, extras = made()
    names = ("ids", "hidden", "reconstruction")
    found = jax.jit(lambda: objective.outputs(params, extras, {"image": shapes(ROWS)}, names))()
    np.testing.assert_array_equal(found["ids"], np.asarray(found["hidden"]).argmax(-1))
    frozen = objective.tokenizer(params, extras)
    assert set(frozen) == {"network"}
    np.testing.assert_array_equal(found["ids"], ids_of(objective.model, frozen, jnp.asarray(shapes(ROWS) / 255)))
    assert found["reconstruction"].shape == (ROWS, 16, 16, 3)
    collected = scored(objective, params, extras, batch_of(ROWS), 0, True).collected
    np.testing.assert_array_equal(collected["counts"].array, np.bincount(np.ravel(found["ids"]), minlength=CODES))
    _, after = objective.advance(params, extras, collected, None, 0)
    np.testing.assert_allclose(after["counts"], 0.01 * np.asarray(collected["counts"].array))


def test_the_temperature_falls_over_the_run():
    objective = DvaeConfig(augment=STILL).over(40).build(MODEL, IMAGES, FLOAT64)
    np.testing.assert_allclose([objective.temperature(step) for step in (0, 40)], [1, 1 / 16])
    assert objective.temperature(39) > 1 / 16 and DvaeConfig(temperature_steps=7).over(40).temperature_steps == 7
    with pytest.raises(ConfigError, match="run's length") as caught:
        DvaeConfig(augment=STILL).build(MODEL, IMAGES, FLOAT64)
    assert caught.value.where == "config.objective.temperature_steps"
