"""MoCo of versions 1 and 2: the queue, the teacher, their order, and which rows BatchNorm sees."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, random
from pretrainx.core.errors import ConfigError
from pretrainx.models.layers import Precision
from pretrainx.models.unit import unit
from pretrainx.objectives.contrastive import against_queue
from pretrainx.objectives.moco import SHUFFLE, Moco, MocoConfig
from toys.small_views import FLIPPED, IMAGES, RESNET, ROWS, VIT, WIDE, Flat, batch, build, distance, of_views, run

CONFIG = MocoConfig(hidden=5, out=4, queue=3 * ROWS, momentum=0.75, views=FLIPPED)
STEPS = 3


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


@functools.lru_cache
def runs(microbatches):
    return run(build(CONFIG), STEPS, microbatches=microbatches)


@pytest.mark.parametrize("version", [1, 2])
def test_versions(version):
    objective = MocoConfig(version, out=4, queue=ROWS).build(VIT, IMAGES, WIDE)
    assert objective.model.projector.widths == ((4,) if version == 1 else (2048, 4))
    assert objective.temperature == {1: 0.07, 2: 0.2}[version]


def test_teacher_moves_towards_what_the_step_starts_from():
    """After update t it is what the forward pass of t + 1 uses: m x teacher + (1 - m) x the parameters of that step."""
    states = runs(1).states
    teacher = states[0].params
    for state in states[1:]:
        teacher = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, teacher, state.params)
        assert distance(state.extras["teacher"], teacher) < 1e-12
    assert distance(states[0].extras["teacher"], states[0].params) == 0
    assert distance(states[-1].extras["teacher"], states[-1].params) > 1e-4


def test_microbatches_change_nothing():
    one, two = runs(1), runs(2)
    assert distance(one.states[-1].params, two.states[-1].params) < 1e-9
    assert distance(one.states[-1].extras, two.states[-1].extras) < 1e-9
    np.testing.assert_allclose([m["loss"] for m in one.metrics], [m["loss"] for m in two.metrics], atol=1e-9)


def test_the_loss_reads_the_queue_as_it_was_and_the_queue_is_first_in_first_out():
    """Steps by hand through `encode`; keys of a step lie at its place, in row order, until it comes round again."""
    objective, states = build(CONFIG), runs(1).states
    for step in range(STEPS):
        before, after = states[step], states[step + 1]
        given = batch(seed=step)
        observation = objective.observe_rows(
            objective.row_keys(random.stream(5, random.OBSERVE, step), given), given, step
        )
        network = lambda params, view: unit(objective.teacher.apply({"params": params}, view)["projection"])
        query = network(before.params, observation.inputs["views"][0])
        key = network(before.extras["teacher"], observation.inputs["views"][1])
        logits = np.concatenate([(query * key).sum(1, keepdims=True), query @ before.extras["queue"].T], 1) / 0.2
        loss = np.log(np.exp(logits).sum(1)) - logits[:, 0]
        np.testing.assert_allclose(runs(1).metrics[step]["loss"], loss.mean(), rtol=1e-9)
        place = step * ROWS
        assert before.extras["next"] == place % (3 * ROWS)
        queue = before.extras["queue"].copy()
        queue[place : place + ROWS] = key
        np.testing.assert_allclose(after.extras["queue"], queue, atol=1e-12)


def alone(queue, width=2, symmetric=False):
    return Moco(None, None, (), 0.5, 0.2, queue, width, symmetric)


def test_first_in_first_out_over_three_wraps():
    objective, extras = alone(6), {"teacher": {}, "queue": jnp.zeros((6, 2)), "next": jnp.int32(0)}
    for step in range(10):
        keys = jnp.full((2, 1, 2), 1.0 + step)
        _, extras = objective.advance({}, extras, {"keys": keys, "valid": jnp.ones(2, bool)}, None, step)
    np.testing.assert_array_equal(extras["queue"][::2, 0], [10, 8, 9])
    assert extras["next"] == 2


def test_another_batch_size_keeps_the_order():
    """A run that goes on with another batch: keys run round the end of the queue, the oldest leave first."""
    objective, extras = alone(12), {"teacher": {}, "queue": jnp.zeros((12, 2)), "next": jnp.int32(0)}
    for step, count in enumerate((4, 6, 6)):
        collected = {"keys": jnp.full((count, 1, 2), 1.0 + step), "valid": jnp.ones(count, bool)}
        _, extras = objective.advance({}, extras, collected, None, step)
    np.testing.assert_array_equal(extras["queue"][:, 0], [3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 3, 3])
    assert extras["next"] == 4


def test_rows_that_are_not_valid_bring_no_keys():
    """They leave what stood there; the place moves on by the whole batch."""
    extras = {"teacher": {}, "queue": jnp.arange(12.0).reshape(6, 2), "next": jnp.int32(2)}
    collected = {"keys": jnp.full((2, 1, 2), -1.0), "valid": jnp.array([True, False])}
    _, after = alone(6).advance({}, extras, collected, None, 0)
    np.testing.assert_array_equal(after["queue"][:, 0], [0, 2, -1, 6, 8, 10])
    assert after["next"] == 4


def test_the_queue_holds_whole_steps():
    objective = build(MocoConfig(hidden=5, out=4, queue=20, views=FLIPPED))
    with pytest.raises(ConfigError, match="whole number of steps"):
        run(objective)


def test_random_start():
    """About ln(K + 1) of random embeddings."""
    rng = np.random.default_rng(0)
    query, key, queue = (unit(rng.standard_normal((rows, 512))) for rows in (64, 64, 4096))
    nll, _ = against_queue(query, key, queue, 1.0)
    np.testing.assert_allclose(nll.mean(), np.log(4097), atol=0.03)


IMAGES_OF_TWO_VIEWS = np.random.default_rng(0).standard_normal((2, ROWS, 8, 8, 1))


@functools.lru_cache
def started(objective):
    """(parameters, extras)"""
    given = batch()
    found = objective.start(jax.random.key(1), objective.init(jax.random.key(0), given), given)
    return tuple(map(axes.unbox, found))


@functools.partial(jax.jit, static_argnums=0)
def encode(objective, params, extras, views=IMAGES_OF_TWO_VIEWS, valid=None):
    observation = of_views(views, valid, {"info_nce": jnp.ones(ROWS)})
    keys = jax.random.split(jax.random.key(0), ROWS)
    return objective.encode(params, extras, observation, keys, 0, train=True)


def test_no_gradient_to_teacher_and_queue():
    objective = build(CONFIG)
    params, extras = started(objective)
    moving = {"params": params, "teacher": extras["teacher"], "queue": extras["queue"]}

    def total(moving):
        return encode(objective, moving["params"], extras | moving).totals["info_nce"]

    sizes = jax.tree.map(lambda x: np.abs(x).max(), jax.jit(jax.grad(total))(moving))
    assert max(jax.tree.leaves(sizes["params"])) > 0 == sizes["queue"] == max(jax.tree.leaves(sizes["teacher"]))


def test_groups_of_the_keys_are_drawn():
    """Shuffle-BN: the teacher sees the rows permuted, so that BatchNorm's groups are others than the query's, and every key
    comes back to its row. Otherwise a network could tell a picture by its group's statistics."""
    plain = build(CONFIG, Flat(group=2))
    shuffled = replace(plain, shuffled=True)
    params, extras = started(plain)
    keys = lambda objective, views: np.asarray(encode(objective, params, extras, views).collected["keys"])[:, 0]
    draw = jax.random.fold_in(jax.random.split(jax.random.key(0), ROWS)[0], SHUFFLE)
    order = np.asarray(jax.random.permutation(draw, ROWS))
    expected = np.empty((ROWS, 4))
    expected[order] = keys(plain, IMAGES_OF_TWO_VIEWS[:, order])
    found = keys(shuffled, IMAGES_OF_TWO_VIEWS)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found - keys(plain, IMAGES_OF_TWO_VIEWS)).max() > 1e-3


def test_padded_rows_are_no_samples_of_batch_norm():
    """Statistics, and keys of the others, are the same whatever stands in an invalid row."""
    objective = build(CONFIG, Flat(group=0))
    params, extras = started(objective)
    valid, other = np.arange(ROWS) != 3, IMAGES_OF_TWO_VIEWS.copy()
    other[:, 3] = 1e3
    outcomes = [encode(objective, params, extras, views, valid) for views in (IMAGES_OF_TWO_VIEWS, other)]
    first, second = outcomes
    assert first.extras.keys() == {"batch_stats", "teacher_stats"}
    assert distance(first.extras, second.extras) == 0
    np.testing.assert_array_equal(first.collected["keys"][valid], second.collected["keys"][valid])


@pytest.mark.parametrize(
    ("bn", "model", "right"),
    [
        ("", RESNET, True),
        ("global", RESNET, True),
        ("grouped", RESNET, False),
        ("none", VIT, True),
        ("global", VIT, False),
    ],
)
def test_the_choice_of_batch_norm_is_the_models(bn, model, right):
    config = MocoConfig(queue=ROWS, bn=bn)
    if right:
        config.build(model, IMAGES, WIDE)
    else:
        with pytest.raises(ConfigError, match="BatchNorm of the model"):
            config.build(model, IMAGES, WIDE)


@pytest.mark.parametrize("symmetric, passes", [(False, 4 / 3), (True, 8 / 3)])
def test_flops(symmetric, passes):
    """Of a query forward and backward, of a key forward: a third of it; both twice where each view is both. And the products of
    a query with the queue, forward and backward to the query."""
    objective = build(MocoConfig(queue=ROWS * 2, symmetric=symmetric, views=FLIPPED), VIT)
    queue = (1 + symmetric) * 4 * ROWS * 2 * objective.width
    assert objective.flops_per_row() == pytest.approx(passes * objective.flops_per_view() + queue)


def test_a_teacher_of_bfloat16_parameters_moves():
    """In their dtype a momentum of 0.999 would change nothing."""
    objective = replace(CONFIG, momentum=0.999).build(VIT, IMAGES, Precision("bfloat16", "bfloat16"))
    given = batch()
    params, extras = jax.jit(
        lambda: objective.start(jax.random.key(1), objective.init(jax.random.key(0), given), given)
    )()
    params, extras = axes.unbox(params), axes.unbox(extras)
    moved = jax.tree.map(lambda x: (x + jnp.abs(x) / 8 + 1).astype(x.dtype), params)
    collected = {"keys": jnp.zeros((ROWS, 1, 4)), "valid": jnp.ones(ROWS, bool)}
    _, after = objective.advance(moved, extras, collected, jax.random.key(0), 0)
    for old, new in zip(*map(jax.tree.leaves, (extras["teacher"], after["teacher"])), strict=True):
        assert new.dtype == jnp.float32 and (np.asarray(new) > np.asarray(old)).all()
