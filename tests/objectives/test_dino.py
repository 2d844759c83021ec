"""DINO: pairs of crops, the centre, temperatures, prototypes that are held at first, smaller local crops."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Cosine
from pretrainx.models.dino_head import DinoHead, Prototypes
from pretrainx.models.vit import VitConfig
from pretrainx.objectives import dino
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.dino import DinoConfig
from toys.small_views import FLIPPED, IMAGES, ROWS, SIZE, WIDE, Flat, batch, distance, of_views, run

SMALLER = AugmentConfig("none", size=4, flip=0.5)
CONFIG = DinoConfig(
    prototypes=7, hidden=(6,), bottleneck=4, momentum=0.5, momentum_steps=4, frozen_steps=1, temperature_steps=4,
    local_crops=2, first=FLIPPED, second=FLIPPED, local=SMALLER,
)  # fmt: skip
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def vit(**fields):
    return VitConfig(width=8, depth=1, heads=2, patch=2, **fields)


@functools.lru_cache
def objective():
    """With crops of one size and a small network in place of the ViT."""
    built = CONFIG.build(vit(), IMAGES, WIDE)
    network = built.model.clone(backbone=Flat())
    return replace(built, model=network, small=network, augmentations=(*built.augmentations[:2],) * 2)


@functools.lru_cache
def runs(microbatches):
    return run(objective(), 2, microbatches=microbatches, invalid=(2,))


def test_pairs_by_hand():
    """Every crop of the student but the teacher's own, one pair at a time."""
    student, teacher, centre = RNG.standard_normal((3, 4, 6)), RNG.standard_normal((3, 2, 6)), RNG.standard_normal(6)
    nll, entropy = dino.losses(student, teacher, centre, 0.1, 0.05)
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    target, said = softmax((teacher - centre) / 0.05), np.log(softmax(student / 0.1))
    pairs = [-(target[:, t] * said[:, s]).sum(-1) for t in range(2) for s in range(4) if t != s]
    np.testing.assert_allclose(nll, np.mean(pairs, 0), rtol=1e-9)
    np.testing.assert_allclose(entropy, -(target * np.log(target)).sum(-1).mean(1) / np.log(6), rtol=1e-6)


def test_centre_and_teacher():
    """The centre moves to the mean of the teacher's outputs on valid rows, after the loss; the teacher after the update."""
    states = runs(1).states
    assert not states[0].extras["centre"].any()
    given = batch(invalid=(2,))
    model = objective().model
    keys = objective().row_keys(random.stream(5, random.OBSERVE, 0), given)
    views = objective().observe_rows(keys, given, 0).inputs["views"][:2]
    said = [model.apply({"params": states[0].extras["teacher"]}, view)["projection"] for view in views]
    np.testing.assert_allclose(
        states[1].extras["centre"], 0.1 * np.mean(np.stack(said)[:, given["valid"]], (0, 1)), rtol=1e-9
    )
    teacher = states[0].params
    for step, state in enumerate(states[1:]):
        m = float(Cosine(0.5, 1.0, 4)(step))
        teacher = jax.tree.map(lambda old, new, m=m: m * old + (1 - m) * new, teacher, state.params)
        assert distance(state.extras["teacher"], teacher) < 1e-12


@pytest.mark.slow
def test_microbatches_change_nothing():
    """Gradient, teacher and centre, in which padded rows have no part, of 1 and 2 microbatches."""
    one, two = runs(1), runs(2)
    assert distance(one.gradient, two.gradient) < 1e-9
    assert distance(one.states[-1].extras, two.states[-1].extras) < 1e-9
    np.testing.assert_allclose(one.metrics[1]["metric/teacher_entropy"], two.metrics[1]["metric/teacher_entropy"])


def test_prototypes_are_held_at_first():
    states = runs(1).states
    kernels = [state.params["projector"]["prototypes"]["kernel"] for state in states]
    assert distance(kernels[0], kernels[1]) == 0 < distance(kernels[1], kernels[2])
    assert distance(states[0].params["backbone"], states[1].params["backbone"]) > 0


@functools.lru_cache
def started():
    found = objective().start(jax.random.key(1), objective().init(jax.random.key(0), batch()), batch())
    return tuple(map(axes.unbox, found))


@jax.jit
def encode(params, extras, views, step):
    observation = of_views(views, None, {"cross_entropy": jnp.ones(ROWS)})
    return objective().encode(params, extras, observation, jax.random.split(jax.random.key(0), ROWS), step, train=True)


VIEWS = tuple(RNG.standard_normal((4, ROWS, SIZE, SIZE, 1)))


def test_the_whole_loss():
    """From the networks' own outputs."""
    params, extras = started()
    model = objective().model
    extras = extras | {"centre": jnp.asarray(RNG.standard_normal(7))}
    teacher = jnp.stack([model.apply({"params": extras["teacher"]}, view)["projection"] for view in VIEWS[:2]], 1)
    student = jnp.stack([model.apply({"params": params}, view)["projection"] for view in VIEWS], 1)
    outcome = encode(params, extras, VIEWS, 2)
    nll, _ = dino.losses(student, teacher, extras["centre"], 0.1, 0.055)  # half way from 0.04 to 0.07
    np.testing.assert_allclose(outcome.per_row["cross_entropy"], nll, rtol=1e-9)
    np.testing.assert_allclose(outcome.collected["outputs"].array, teacher.sum((0, 1)), rtol=1e-9)
    assert outcome.collected["count"].array == 2 * ROWS


def test_no_gradient_to_the_teacher_and_none_to_scales_of_prototypes():
    params, extras = started()
    total = lambda params, extras: encode(params, extras, VIEWS, 2).totals["cross_entropy"]
    gradient, other = jax.grad(total, (0, 1))(params, extras)
    assert max(np.abs(x).max() for x in jax.tree.leaves(other["teacher"])) == 0
    kernel = params["projector"]["prototypes"]["kernel"]
    along = (gradient["projector"]["prototypes"]["kernel"] * kernel).sum(0)
    np.testing.assert_allclose(along, 0, atol=1e-9 * np.abs(kernel).max())


def test_smaller_crops_go_through_the_same_parameters():
    """Learned positions are interpolated for them: what is linear in row and column stays so inside."""
    built = CONFIG.build(vit(), IMAGES, WIDE)
    shapes = jax.eval_shape(lambda key: axes.unbox(built.init(key, batch())), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    table = RNG.standard_normal((17, 8))
    table[1:, :2] = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij"), -1).reshape(16, 2)
    params = params | {"backbone": params["backbone"] | {"position": {"table": jnp.asarray(table)}}}
    resized = built.resized(params)
    found = np.asarray(resized["backbone"]["position"]["table"])
    assert found.shape == (5, 8)
    np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_allclose(found[1:3, 0] - found[3:5, 0], -2.0, atol=0.3)
    np.testing.assert_allclose(found[1:, :2].mean(0), 1.5, rtol=1e-9)
    local = jax.eval_shape(lambda view: built.small.apply({"params": resized}, view), jnp.zeros((3, 4, 4, 1)))
    assert local["projection"].shape == (3, 7) and built.augmentations[2].size == 4


@pytest.mark.parametrize(
    ("model", "changes", "what"),
    [({"positions": "relative"}, {}, "one size"), ({}, {"local": replace(SMALLER, size=3)}, "do not fill")],
)
def test_local_crops_that_cannot_be_read(model, changes, what):
    with pytest.raises(ConfigError, match=what) as caught:
        replace(CONFIG, **changes).build(vit(**model), IMAGES, WIDE)
    assert caught.value.where == "config.objective.local.size"


def test_local_crops_are_whole_patches_and_need_not_be():
    """3/7 of 28 pixels, a multiple of 4, are 12: two patches of 7 are 14. Without them nothing is said about them."""
    images, model = replace(IMAGES, size=28), replace(vit(), patch=7)
    config = DinoConfig(prototypes=7, hidden=(6,), bottleneck=4).over(10)
    assert [view.size for view in config.build(model, images, WIDE).augmentations[1:3]] == [28, 14]
    none = replace(config, local_crops=0, local=replace(SMALLER, size=3)).build(model, images, WIDE)
    assert len(none.augmentations) == 2 and none.small == none.model


def test_the_teacher_s_temperature_rises():
    """From 0.04 to 0.07 over the first 30 % of the run, unless the config says how long."""
    found = DinoConfig().over(100).build(vit(), IMAGES, WIDE).teacher_temperature
    np.testing.assert_allclose([found(step) for step in (0, 15, 30, 99)], [0.04, 0.055, 0.07, 0.07])
    assert CONFIG.over(100) == CONFIG


def test_flops():
    """The student reads all crops forward and backward, the teacher the global two forward: a third of it."""
    built = CONFIG.build(vit(), IMAGES, WIDE)
    large, small = built.flops_per_view(), built.flops_per_view(4)
    assert built.flops_per_row() == pytest.approx(2 * large + 2 * small + 2 / 3 * large)


def test_the_head_starts_as_released_ones():
    """Normal of deviation 0.02, biases 0; GELU between layers."""
    head = DinoHead((64, 64), 8, precision=WIDE)
    params = axes.unbox(head.init(jax.random.key(0), jnp.zeros((1, 64)))["params"])["mlp"]
    assert {path for path, x in paths.leaves(params) if not x.any()} == {"dense_0/bias", "dense_1/bias"}
    assert params["dense_0"]["kernel"].std() == pytest.approx(0.02, rel=0.05)
    x = jnp.asarray(RNG.standard_normal((3, 64)))
    dense = [params[f"dense_{number}"]["kernel"] for number in (0, 1)]
    said = head.bind({"params": {"mlp": params}}).mlp(x)
    np.testing.assert_allclose(said, jax.nn.gelu(x @ dense[0], approximate=False) @ dense[1], rtol=1e-9)


def test_cosines_with_prototypes_are_not_rounded_on_accelerators():
    head = Prototypes(5, 7, WIDE)
    text = jax.jit(lambda x: head.init_with_output(jax.random.key(0), x)[0]).lower(jnp.zeros((2, 5))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 1 and "HIGHEST, HIGHEST" in products[0]
