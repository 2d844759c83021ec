"""NT-Xent by hand, its symmetries, who is a negative, and that microbatches do not change it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.unit import unit
from pretrainx.objectives import contrastive
from pretrainx.objectives.simclr import SimclrConfig
from toys.small_views import FLIPPED, ROWS, VIT, WIDE, Flat, batch, build, distance, of_views, run

CONFIG = SimclrConfig(0.5, hidden=(5,), out=4, head_norm="none", views=FLIPPED)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def scored(first, second, valid=None, temperature=0.5):
    valid = jnp.ones(len(first), bool) if valid is None else jnp.asarray(valid)
    weights = jnp.ones((len(first), 2)) * valid[:, None]
    outcome = contrastive.nt_xent(unit(jnp.asarray(first)), unit(jnp.asarray(second)), weights, valid, temperature)
    return outcome.totals["nt_xent"] / weights.sum()


def test_two_pictures_by_hand():
    """Four views at 0, 90, 60 and 180 degrees: each row's cross-entropy from the table of cosines."""
    angles = np.deg2rad([[0, 60], [90, 180]])  # [picture, view]
    z = np.stack([np.cos(angles), np.sin(angles)], -1)
    at = angles.T.ravel()
    cosines = np.cos(at[:, None] - at[None])
    np.testing.assert_allclose(cosines[0], [1, 0, 0.5, -1], atol=1e-12)
    terms = []
    for anchor, partner in ((0, 2), (1, 3), (2, 0), (3, 1)):
        others = [number for number in range(4) if number != anchor]
        terms.append(np.log(np.exp(cosines[anchor, others] / 0.5).sum()) - cosines[anchor, partner] / 0.5)
    np.testing.assert_allclose(scored(z[:, 0], z[:, 1]), np.mean(terms), rtol=1e-12)


def test_golden_value():
    """Equal pairs, orthogonal negatives, temperature 0.5, four pictures: -2 + ln(e^2 + 6)."""
    np.testing.assert_allclose(scored(np.eye(4), np.eye(4)), -2 + np.log(np.exp(2) + 6), rtol=1e-12)
    np.testing.assert_allclose(scored(np.eye(4), np.eye(4)), 0.5944, atol=5e-5)


def test_symmetries():
    """Swapped views and permuted pictures have the same loss, and so have scaled embeddings."""
    first, second = RNG.standard_normal((2, 6, 5))
    order = RNG.permutation(6)
    loss = scored(first, second)
    np.testing.assert_allclose(scored(second, first), loss, rtol=1e-12)
    np.testing.assert_allclose(scored(first[order], second[order]), loss, rtol=1e-12)
    np.testing.assert_allclose(scored(3 * first, 0.1 * second), loss, rtol=1e-12)
    assert abs(scored(first[order], second) - loss) > 0.1


def test_random_embeddings_start_at_the_logarithm():
    """ln(2N - 1) of embeddings that know nothing."""
    first, second = RNG.standard_normal((2, 64, 4096))
    np.testing.assert_allclose(scored(first, second), np.log(127), atol=0.01)


def test_rows_that_are_not_valid_are_no_negatives():
    first, second = RNG.standard_normal((2, 6, 5))
    valid = np.array([1, 1, 0, 1, 0, 1], bool)
    loss = jax.value_and_grad(lambda first: scored(first, second, valid))
    changed = np.where(valid[:, None], first, 1e3 * RNG.standard_normal((6, 5)))
    (one, gradient), (two, again) = loss(jnp.asarray(first)), loss(jnp.asarray(changed))
    np.testing.assert_allclose(one, scored(first[valid], second[valid]), rtol=1e-12)
    np.testing.assert_allclose([one, *gradient[valid].ravel()], [two, *again[valid].ravel()], rtol=1e-12)
    assert np.abs(gradient[~valid]).max() == 0


def test_a_zero_vector_has_a_finite_gradient():
    first = jnp.zeros((2, 3)).at[0, 0].set(1.0)
    gradient = jax.grad(lambda first: scored(first, jnp.ones((2, 3))))(first)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() < 10


def test_microbatches_change_nothing():
    """Loss, gradient and monitors of 1, 2 and 4 microbatches, by an encoder without BatchNorm."""
    whole, *parts = (run(build(CONFIG), microbatches=count, invalid=(2,)) for count in (1, 2, 4))
    for part in parts:
        assert distance(part.gradient, whole.gradient) < 1e-9 < np.abs(jax.tree.leaves(whole.gradient)[0]).max()
        assert distance(part.metrics, whole.metrics) < 1e-9


def test_batch_norm_sees_both_views_of_a_microbatch():
    """The running mean after one step: over both views of each microbatch's valid rows, then over microbatches."""
    objective = build(CONFIG, Flat(group=0))
    found = {count: run(objective, microbatches=count, invalid=(2, 5)) for count in (1, 2)}
    before = found[1].states[0]
    keys = objective.row_keys(random.stream(5, random.OBSERVE), batch())
    views = np.stack(objective.observe_rows(keys, batch(), 0).inputs["views"])
    dense = before.params["backbone"]["Linear_0"]
    seen = views.reshape(2, ROWS, -1) @ dense["kernel"] + dense["bias"]
    real = batch(invalid=(2, 5))["valid"]
    for count, each in found.items():
        mean = each.states[1].extras["batch_stats"]["backbone"]["norm"]["mean"]
        parts = [seen[:, part::count][:, real[part::count]].mean((0, 1)) for part in range(count)]
        np.testing.assert_allclose(mean, 0.1 * np.mean(parts, 0), rtol=1e-9)
    assert distance(found[1].gradient, found[2].gradient) > 1e-6  # other statistics: equality is not claimed


def test_features_and_outputs():
    objective = build(CONFIG, VIT)
    params = axes.unbox(objective.init(jax.random.key(0), batch()))
    inputs = {"image": batch()["image"]}
    outputs = jax.jit(objective.outputs, static_argnums=3)
    found = outputs(params, {}, inputs, ("features", "projection", "hidden"))
    assert found["features"].shape == (ROWS, 8) and found["projection"].shape == (ROWS, 4)
    np.testing.assert_allclose(found["hidden"][:, 0], found["features"], rtol=1e-12)
    floats = outputs(params, {}, {"image": inputs["image"] / np.float32(255)}, ("features", "projection", "hidden"))
    np.testing.assert_allclose(floats["features"], found["features"], rtol=1e-5)


def test_models_that_read_no_pictures_are_refused():
    with pytest.raises(ConfigError, match="reads pictures"):
        CONFIG.build(DecoderConfig(width=8, depth=1, heads=2), Images(8, 1, (), (0.5,), (0.5,)), WIDE)


def test_without_negatives_only_attraction_is_left():
    objective = build(SimclrConfig(0.5, (5,), 4, "none", False, FLIPPED))
    z = unit(RNG.standard_normal((2, 4, 4)))
    observation = of_views((np.zeros((4, 1)), np.zeros((4, 1))), weights={"nt_xent": jnp.ones((4, 2))})
    total = objective.couple({}, {}, {"z1": z[0], "z2": z[1]}, observation, 0).totals["nt_xent"]
    np.testing.assert_allclose(total, -(z[0] * z[1]).sum() / 0.5 * 2, rtol=1e-12)
