"""CLIP, SigLIP and CoCa: losses by hand, the trained scale, draws of captions, terms that leave each other's parts alone."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.pairs import ABOUT, CAPTIONS, CASES, CLIP, COCA, SIZES, WIDTH, built, fields
from pretrainx.core import axes, paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation
from pretrainx.core.schedule import Ramp
from pretrainx.models.coca import CocaTextConfig
from pretrainx.models.unit import unit
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.clip import ClipConfig
from pretrainx.objectives.coca import CocaConfig
from pretrainx.objectives.objective import UnknownOutput
from pretrainx.objectives.siglip import SiglipConfig
from pretrainx.optim.optimizer import AdamWConfig, Optimizer
from pretrainx.training import state as states
from toys.small import RATE, Small

ROWS = 8
PLAIN = AugmentConfig("none")
SMALL = replace(
    COCA,
    image=VitConfig(**SIZES | {"depth": 1}, patch=4),
    text=CocaTextConfig(**SIZES | {"depth": 1}, vocab_multiple=16),
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def objective(name):
    cases = {
        "clip": lambda: replace(CASES["clip"](), augmentation=PLAIN.build(ABOUT.images)),
        "siglip": CASES["siglip"],
        "coca": lambda: built(CocaConfig(augment=PLAIN), SMALL),
        "coca, no captions": lambda: built(CocaConfig(augment=PLAIN, caption_weight=0.0), SMALL),
    }
    return cases[name]()


@functools.cache
def params(name, noise=0.0):
    with jax.enable_x64(True):
        rng, made = np.random.default_rng(1), objective(name)
        init = jax.jit(lambda key: axes.unbox(made.init(key, states.example_batch(made, 2))))
        return jax.tree.map(lambda x: np.asarray(x + noise * rng.standard_normal(x.shape)), init(jax.random.key(0)))


def batch(rows=ROWS, seed=0):
    found = fields(objective("clip").batch_spec(rows), np.random.default_rng(seed))
    return found | {"valid": np.ones(rows, bool)}


def undrawn():
    """A batch in which all captions of a picture are one."""
    found = batch()
    return found | {"tokens": np.repeat(found["tokens"][:, :1], CAPTIONS, 1)}


def vectors(rows=ROWS):
    rng = np.random.default_rng(0)
    return {side: np.asarray(unit(rng.standard_normal((rows, 5)))) for side in ("image", "text")}


# Of eight captions the second and the sixth are equal.
CAPTIONED = np.concatenate([np.full((ROWS, 1), 2), np.arange(3, 3 + ROWS)[:, None], np.full((ROWS, 1), 1)], 1)
CAPTIONED[5] = CAPTIONED[1]
SAME = (CAPTIONED[:, None] == CAPTIONED[None]).all(2)


def coupled(config, found, scale, valid=None, **space):
    """The mean loss and the metrics of given vectors of length one."""
    made = replace(objective("siglip" if isinstance(config, SiglipConfig) else "clip"), config=config)
    valid = np.ones(len(found["image"]), bool) if valid is None else valid
    observation = Observation({"tokens": CAPTIONED}, {}, {"contrastive": valid * 1.0}, valid)
    outcome = made.couple({"space": {"log_scale": jnp.log(scale)} | space}, {}, found, observation, 0)
    metrics = {name: mean.total / mean.weight for name, mean in outcome.metrics.items()}
    return outcome.totals["contrastive"] / valid.sum(), metrics


def clip_by_hand(found, scale, negatives):
    """negatives: bool[N, N], which captions are strangers of which picture."""
    logits, loss = scale * found["image"] @ found["text"].T, 0
    for scores in (logits, logits.T):
        loss += np.log(np.where(negatives | np.eye(len(scores), dtype=bool), np.exp(scores), 0).sum(1)) - np.diag(
            scores
        )
    return loss.mean() / 2


@pytest.mark.parametrize("form", ["rows", "ring"])
@pytest.mark.parametrize("duplicates", ["left_out", "negatives"])
def test_loss_of_clip_by_hand(duplicates, form):
    found = vectors()
    negatives = ~SAME if duplicates == "left_out" else ~np.eye(ROWS, dtype=bool)
    loss, metrics = coupled(ClipConfig(form, duplicates=duplicates), found, 7.0)
    np.testing.assert_allclose(loss, clip_by_hand(found, 7.0, negatives), rtol=1e-12)
    logits = np.where(negatives | np.eye(ROWS, dtype=bool), found["image"] @ found["text"].T, -9)
    assert metrics["scale"] == pytest.approx(7)
    assert metrics["image_to_text"] == (logits.argmax(1) == np.arange(ROWS)).mean()
    assert metrics["text_to_image"] == (logits.argmax(0) == np.arange(ROWS)).mean()


@pytest.mark.parametrize("duplicates", ["left_out", "negatives"])
def test_loss_of_siglip_by_hand(duplicates):
    """The sum over all pairs, divided by the rows and not by the pairs."""
    found = vectors()
    logits = 7 * found["image"] @ found["text"].T - 3
    own = np.eye(ROWS, dtype=bool)
    scored = own | ~SAME if duplicates == "left_out" else np.ones_like(own)
    wanted = np.where(scored, np.log1p(np.exp(-np.where(own, 1, -1) * logits)), 0).sum() / ROWS
    loss, metrics = coupled(SiglipConfig(duplicates=duplicates), found, 7.0, offset=-3.0)
    np.testing.assert_allclose(loss, wanted, rtol=1e-12)
    assert metrics["image_to_text"] == (np.where(scored, logits, -99).argmax(1) == np.arange(ROWS)).mean()


@pytest.mark.parametrize("config", [ClipConfig(), SiglipConfig()])
def test_rows_that_are_not_valid_are_nobody_s_negatives(config):
    valid, found = np.arange(ROWS) != 3, vectors()
    space = {"offset": -1.0} if isinstance(config, SiglipConfig) else {}
    other = {side: z.copy() for side, z in found.items()}
    other["image"][3], other["text"][3] = found["image"][0], found["text"][0]
    loss = lambda found, valid=valid: coupled(config, found, 5.0, valid, **space)[0]
    assert loss(found) == loss(other) and abs(loss(found, None) - loss(other, None)) > 0.01


@pytest.mark.parametrize(("name", "scale", "offset"), [("clip", 1 / 0.07, None), ("siglip", 10, -10)])
def test_logits_start_as_published(name, scale, offset):
    space = params(name)["space"]
    np.testing.assert_allclose(np.exp(space["log_scale"]), scale, rtol=1e-12)
    assert space.get("offset") == offset


def test_at_the_start_the_loss_is_about_that_of_a_guess():
    """ln B, where no picture knows its caption and cosines are not yet multiplied."""
    given, tree = batch(64), params("clip")
    tree = tree | {"space": tree["space"] | {"log_scale": np.zeros(())}}
    assert total(objective("clip"), tree, given)[1]["contrastive"] / 64 == pytest.approx(math.log(64), rel=0.02)


@functools.partial(jax.jit, static_argnums=0)
def total(made, tree, given, coefficients=None):
    """(the means of terms, added by these coefficients; {term: its sum over rows}) without dropout."""
    keys = jax.random.split(jax.random.key(0), len(given["valid"]))
    observation = made.observe_rows(keys, given, 0)
    outcome = made.encode(tree, {}, observation, keys, 0, train=False)
    joint = made.couple(tree, {}, outcome.representations, observation, 0)
    totals = outcome.totals | joint.totals
    means = {name: value / observation.weights[name].sum() for name, value in totals.items()}
    return sum((coefficients or {}).get(name, 0) * mean for name, mean in means.items()), totals


@functools.cache
def gradients(term):
    """{path: gradient} of the mean of one term of CoCa."""
    with jax.enable_x64(True):
        weights = {name: 1.0 * (name == term) for name in ("contrastive", "caption")}
        found = slopes(params("coca", 0.1), undrawn(), weights)
        return {path: np.asarray(leaf) for path, leaf in paths.leaves(found)}


@jax.jit
def slopes(tree, given, weights):
    return jax.grad(lambda tree: total(objective("coca"), tree, given, weights)[0])(tree)


WRITES = ("decoder/", "final_norm/", "unembed/")


def test_each_term_of_coca_moves_its_own_parts_and_both_the_image_encoder():
    moved = {
        term: {path for path, leaf in gradients(term).items() if leaf.any()} for term in ("contrastive", "caption")
    }
    everything = {*gradients("caption")}
    vectors_only = {path for path in everything if path.startswith(("space/", "pool_contrastive/", "image_norm/"))}
    vectors_only |= {"text/class_token", "text/final_norm/bias", "text/final_norm/scale"} & everything
    writes_only = {path for path in everything if path.startswith(WRITES)}
    assert len(vectors_only) > 9 and len(writes_only) > 9 and any(path.startswith("image/") for path in everything)
    assert moved["contrastive"] == everything - writes_only
    assert moved["caption"] == everything - vectors_only


def changed(tree, wanted, row=slice(None)):
    rng = np.random.default_rng(3)

    def move(path, leaf):
        if not "/".join(key.key for key in path).startswith(wanted):
            return leaf
        leaf = leaf.copy()
        leaf[row] += 0.5 * rng.standard_normal(leaf[row].shape)
        return leaf

    return jax.tree_util.tree_map_with_path(move, tree)


@pytest.mark.parametrize(
    ("part", "row", "stays"),
    [
        ("text/class_token", slice(None), {"caption"}),
        ("decoder/", slice(None), {"contrastive"}),
        ("unembed/", slice(None), {"contrastive"}),
        ("text/token/table", ABOUT.vocabulary.special("pad"), {"caption", "contrastive"}),
    ],
)
def test_what_the_terms_of_coca_do_not_depend_on(part, row, stays):
    """The caption's on the class token, the contrastive one on what writes, none on what padding looks like."""
    tree = params("coca", 0.1)
    one, other = (total(objective("coca"), each, batch())[1] for each in (tree, changed(tree, part, row)))
    assert {name for name in one if one[name] == other[name]} == stays


def test_the_caption_loss_is_that_of_the_next_token_up_to_the_end():
    made, tree, given = objective("coca"), params("coca", 0.1), undrawn()
    tokens = given["tokens"][:, 0]
    outputs = jax.jit(lambda tree, inputs: made.outputs(tree, {}, inputs, ("logits",))["logits"])
    logits = np.asarray(outputs(tree, {"image": given["image"], "tokens": tokens}))
    chances = jax.nn.log_softmax(np.where(np.arange(logits.shape[-1]) < ABOUT.vocabulary.size, logits, -np.inf))
    scored = np.take_along_axis(np.asarray(chances)[:, :-1], tokens[:, 1:, None], 2)[..., 0]
    wanted = -sum(row[:size].sum() for row, size in zip(scored, (tokens == 1).argmax(1), strict=True))
    np.testing.assert_allclose(total(made, tree, given)[1]["caption"], wanted, rtol=1e-10)


def test_without_captions_coca_learns_as_clip_does():
    """A step of plain descent shows the gradient: the contrastive term's alone."""
    small = Small(objective("coca, no captions"), ROWS)
    tree, given = jax.tree.map(lambda x: jnp.array(x, copy=True), params("coca", 0.1)), undrawn()
    after, metrics = small.train(small.state.replace(params=tree), given)
    old, new = (dict(paths.leaves(each)) for each in (params("coca", 0.1), after.params))
    np.testing.assert_allclose(metrics["loss"], metrics["term/contrastive"], rtol=1e-12)
    for path, wanted in gradients("contrastive").items():
        np.testing.assert_allclose((old[path] - np.asarray(new[path])) / RATE, wanted, atol=1e-9, err_msg=path)


@pytest.mark.parametrize(("name", "most"), [("clip", 100), ("siglip", 1e4)])
def test_the_scale_is_bounded_after_an_update(name, most):
    made = objective(name)
    for log, kept in ((50.0, math.log(most)), (-0.5, 0.0), (3.0, 3.0)):
        tree = {"space": {"log_scale": jnp.asarray(log)}, "rest": jnp.ones(2)}
        after, extras = made.advance(tree, {"batch_stats": 1}, {}, None, 0)
        assert after["space"]["log_scale"] == kept and after["rest"].all() and extras == {"batch_stats": 1}


def test_the_gradient_of_the_scale_is_not_bounded():
    """Above the bound it still says the way down."""
    found = vectors()
    slope = jax.grad(lambda log: coupled(ClipConfig(), found, jnp.exp(log))[0])
    loss = lambda log: clip_by_hand(found, math.exp(log), ~SAME)
    wanted = (loss(4.8 + 1e-6) - loss(4.8 - 1e-6)) / 2e-6
    assert wanted > 1 and slope(4.8) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_scale_and_offset_are_never_decayed(name):
    made = objective(name)
    boxes = jax.eval_shape(lambda key: made.init(key, states.example_batch(made, 2)), jax.random.key(0))
    shapes = {path: leaf.shape for path, leaf in paths.leaves(axes.unbox(boxes))}
    optimizer = Optimizer(AdamWConfig(weight_decay=0.2), Ramp(1.0, 1.0, 1), 0.0, axes.of_boxed(boxes))
    rows = {path: (role, decay) for path, role, *_, decay in optimizer.table(shapes)}
    scalars = {path: rows[path] for path in rows if path in ("space/log_scale", "space/offset")}
    assert scalars and set(scalars.values()) == {("scalar", 0.0)} and len(scalars) == 1 + (name == "siglip")
    assert rows["space/text/kernel"][1] == 0.2


def test_lengths_of_vectors_do_not_count():
    """They are made one before they are multiplied by the scale."""
    tree, given = params("clip", 0.1), batch()
    space = tree["space"]
    longer = {side: {"kernel": 3 * space[side]["kernel"]} for side in ("image", "text")}
    one, other = (
        total(objective("clip"), each, given)[1]["contrastive"] for each in (tree, tree | {"space": space | longer})
    )
    np.testing.assert_allclose(one, other, rtol=1e-10)


def test_captions_are_drawn_from_those_that_are_there():
    """By seed, step and row; of three places all real ones, and no other."""
    made, rows = objective("clip"), 64
    given = batch(rows) | {"captions": np.arange(rows) % CAPTIONS + 1}
    given["tokens"] = np.broadcast_to(np.arange(3, 3 + CAPTIONS)[None, :, None], (rows, CAPTIONS, WIDTH))

    @jax.jit
    def drawn(seed, step):
        keys = made.row_keys(random.stream(seed, random.OBSERVE, step), given)
        return made.observe_rows(keys, given, step).inputs["tokens"][:, 0] - 3

    found = np.stack([drawn(seed, step) for seed in range(2) for step in range(8)])
    for count in range(1, CAPTIONS + 1):
        assert {*found[:, count - 1 :: CAPTIONS].reshape(-1).tolist()} == {*range(count)}
    assert len({tuple(row) for row in found}) == 16 and (found[3] == np.asarray(drawn(0, 3))).all()
    assert len({tuple(column) for column in found[:, 2::CAPTIONS].T}) > 15, "rows draw for themselves"


@pytest.mark.parametrize("name", ["clip", "coca"])
def test_one_side_is_enough_for_its_vector(name):
    made, tree, given = objective(name), params(name, 0.1), batch()
    image, tokens = given["image"], given["tokens"][:, 0]
    outputs = lambda inputs, *names: made.outputs(tree, {}, inputs, names)
    of_image, of_text = outputs({"image": image}, "image", "features"), outputs({"tokens": tokens}, "text", "features")
    both = outputs({"image": image, "tokens": tokens}, "image", "text", "features", "scale")
    np.testing.assert_array_equal(of_image["features"], of_image["image"])
    np.testing.assert_array_equal(of_text["features"], of_text["text"])
    np.testing.assert_array_equal(both["features"], of_image["image"])
    np.testing.assert_array_equal(both["text"], of_text["text"])
    np.testing.assert_allclose(np.linalg.norm(both["image"], axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(both["text"], axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(both["scale"], np.exp(tree["space"]["log_scale"]))
    np.testing.assert_allclose(outputs({"image": image / 255}, "image")["image"], both["image"], rtol=1e-9)
    for inputs, output, lacks in (
        ({"image": image}, "text", "needs tokens"),
        ({"tokens": tokens}, "image", "an image"),
    ):
        with pytest.raises(ValueError, match=lacks):
            outputs(inputs, output)
    with pytest.raises(UnknownOutput, match="no output 'hiden'"):
        outputs({"image": image}, "hiden")


def test_what_the_model_sees_of_a_caption_is_what_was_drawn():
    made, given = objective("coca"), batch()
    keys = jax.random.split(jax.random.key(1), ROWS)
    seen = made.observe_rows(keys, given, 0)
    tokens = np.asarray(seen.inputs["tokens"])
    assert all((tokens[row] == given["tokens"][row]).all(1).any() for row in range(ROWS))
    np.testing.assert_array_equal(seen.targets, tokens[:, 1:])
    np.testing.assert_array_equal(seen.weights["caption"], tokens[:, 1:] != 0)
    assert (seen.weights["contrastive"] == 1).all() and made.reads.captions == CAPTIONS


@pytest.mark.parametrize(
    ("config", "model", "wanted"),
    [(ClipConfig(), COCA, "dual_encoder"), (SiglipConfig(), COCA, "dual_encoder"), (CocaConfig(), CLIP, "coca")],
)
def test_another_model_is_refused(config, model, wanted):
    with pytest.raises(ConfigError, match="with another model") as caught:
        built(config, model)
    assert f"--config.model.name={wanted}" in caught.value.do
