"""Scores of pairs against the plain forms: every pair at once, by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.objectives import pair_scores
from pretrainx.objectives.pair_scores import SIGMOID, SOFTMAX
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

ROWS, WIDTH = 24, 5
MESHES = {"one": MeshConfig(1), "data-8": MeshConfig(8), "fsdp-4-tensor-2": MeshConfig(1, 4, 2)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def example(seed=0):
    rng = np.random.default_rng(seed)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    image, text = (unit(rng.standard_normal((ROWS, WIDTH))) for _ in range(2))
    marks = rng.integers(0, 9, (ROWS, 1)).astype(np.uint32) * np.array([[1, 3]], np.uint32)
    return image, text, marks, np.arange(ROWS) % 7 != 3


def plain(kind, image, text, scale, offset, marks, valid):
    """The same over the whole matrix: (sum over strangers, best of them), and own logits."""
    logits = scale * image @ text.T + offset
    same = (marks[:, None] == marks[None]).all(2)
    counts = valid[None] & ~same & ~np.eye(len(image), dtype=bool)
    lowest = np.finfo(logits.dtype).min / 2
    if kind is SOFTMAX:
        found = [
            np.log(np.exp(row[mask]).sum()) if mask.any() else lowest for row, mask in zip(logits, counts, strict=True)
        ]
    else:
        found = [np.log1p(np.exp(row[mask])).sum() for row, mask in zip(logits, counts, strict=True)]
    best = [row[mask].max() if mask.any() else lowest for row, mask in zip(logits, counts, strict=True)]
    return np.array(found), np.array(best), np.diag(logits)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("form", "block"), [("rows", 256), ("rows", 1), ("rows", 2), ("ring", 256), ("ring", 1)])
@pytest.mark.parametrize("kind", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_every_form_is_the_plain_one(kind, form, block, mesh):
    image, text, marks, valid = example()
    layout = MESHES[mesh]
    rules = Rules(make_mesh(layout, jax.devices()[: layout.data * layout.fsdp * layout.tensor]))

    @jax.jit
    def scored(image, text, scale, offset):
        with rules.bound():
            return pair_scores.strangers(image, text, scale, offset, marks, valid, kind, form, block)

    expected, best, own = plain(kind, image, text, 3.0, -0.5, marks, valid)
    placed = [jax.device_put(x, rules.rows(x.shape)) for x in (image, text)]
    found = scored(*placed, 3.0, -0.5)
    np.testing.assert_allclose(found.sum, expected, rtol=1e-12)
    np.testing.assert_allclose(found.best, best, rtol=1e-12)
    np.testing.assert_allclose(pair_scores.own(image, text, 3.0, -0.5), own, rtol=1e-12)


@pytest.mark.parametrize("form", pair_scores.FORMS)
@pytest.mark.parametrize("kind", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])
def test_gradients_of_forms_are_those_of_the_whole_matrix(kind, form):
    """For both sides, the scale and the offset: rows that were gathered, or travelled, get their gradient too."""
    image, text, marks, valid = example(1)
    rules = Rules(make_mesh(MeshConfig(8), jax.devices()))

    def whole(image, text, scale, offset):
        logits = scale * image @ text.T + offset
        same = (marks[:, None] == marks[None]).all(2)
        logits = jnp.where(valid[None] & ~same & ~np.eye(ROWS, dtype=bool), logits, -1e30)
        scored = jax.nn.logsumexp(logits, axis=1) if kind is SOFTMAX else jax.nn.softplus(logits).sum(1)
        return (jnp.sin(jnp.arange(ROWS)) * scored).sum()

    def ours(image, text, scale, offset):
        with rules.bound():
            found = pair_scores.strangers(image, text, scale, offset, marks, valid, kind, form, 1)
        return (jnp.sin(jnp.arange(ROWS)) * found.sum).sum()

    given = image, text, 2.0, 0.3
    expected = jax.grad(whole, (0, 1, 2, 3))(*given)
    for one, other in zip(expected, jax.jit(jax.grad(ours, (0, 1, 2, 3)))(*given), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_row_without_strangers_scores_nothing():
    """All captions alike: no negative is left, and the loss of CLIP is 0 with a finite gradient."""
    image, text, _, _ = example()
    marks, valid = np.ones((ROWS, 2), np.uint32), np.ones(ROWS, bool)

    def loss(image):
        found = pair_scores.strangers(image, text, 5.0, 0.0, marks, valid, SOFTMAX, "rows", 8)
        return jax.nn.softplus(found.sum - pair_scores.own(image, text, 5.0)).sum()

    value, gradient = jax.value_and_grad(loss)(image)
    assert value == 0 and np.isfinite(gradient).all() and not gradient.any()


def test_marks_tell_captions_apart():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 3, (4000, 4)).astype(np.int32)  # 81 different ones
    marks = np.asarray(pair_scores.marks_of(tokens))
    assert len(np.unique(marks, axis=0)) == len(np.unique(tokens, axis=0)) == 81
    swapped = np.array([[5, 7, 0, 0], [7, 5, 0, 0], [5, 7, 0, 1], [0, 5, 7, 0]], np.int32)
    assert len(np.unique(np.asarray(pair_scores.marks_of(swapped)), axis=0)) == 4


@pytest.mark.parametrize(("rows", "most", "count"), [(512, 256, 2), (1024, 256, 4), (12, 5, 3), (7, 3, 7), (8, 256, 1)])
def test_blocks_divide_the_rows(rows, most, count):
    assert pair_scores.blocks_of(rows, most) == count


def test_unknown_chance_is_log_of_the_batch():
    """At the start vectors know nothing: the loss of 256 equal vectors is ln 256."""
    rows = 256
    z, marks = np.tile([[0.6, 0.8]], (rows, 1)), np.arange(2 * rows, dtype=np.uint32).reshape(rows, 2)
    found = pair_scores.strangers(z, z, 14.2857, 0.0, marks, np.ones(rows, bool), SOFTMAX, "rows", 64)
    loss = jax.nn.softplus(found.sum - pair_scores.own(z, z, 14.2857))
    np.testing.assert_allclose(loss, np.log(rows), rtol=1e-12)


@pytest.mark.parametrize("form", pair_scores.FORMS)
def test_memory_grows_with_the_rows_not_with_their_square(form):
    """The compiled gradient on 8 devices; the plain form takes four times as much for twice the rows."""
    rules = Rules(make_mesh(MeshConfig(8), jax.devices()))

    def temporaries(rows, form):
        def loss(image, text, marks, valid):
            with rules.bound():
                if form == "plain":
                    return jax.nn.logsumexp(14.0 * image @ text.T, axis=1).sum()
                return pair_scores.strangers(image, text, 14.0, 0.0, marks, valid, SOFTMAX, form, 64).sum.sum()

        shapes = ((rows, 16), float), ((rows, 16), float), ((rows, 2), np.uint32), ((rows,), bool)
        given = [jax.ShapeDtypeStruct(shape, dtype, sharding=rules.rows(shape)) for shape, dtype in shapes]
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*given).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(4096, form) <= 2.2 * temporaries(2048, form)
    assert temporaries(4096, "plain") > 3 * temporaries(2048, "plain")
