"""The chunked cross-entropy: values and gradients of the plain one, whole logits never made, frozen heads free."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.objectives import cross_entropy
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules, constrain
from toys.compiled import loops

ROWS, LENGTH, WIDTH, VOCABULARY = 3, 12, 5, 17
rng = np.random.default_rng(0)
HIDDEN, TABLE = rng.standard_normal((ROWS, LENGTH, WIDTH)), rng.standard_normal((WIDTH, VOCABULARY))
SHIFT = rng.standard_normal(VOCABULARY)
TARGETS = rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
WEIGHTS = (rng.uniform(0, 1, (ROWS, LENGTH)).round(1) * (rng.uniform(size=(ROWS, LENGTH)) > 0.3)).astype("f4")
close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def by_chunks(chunks, hidden=HIDDEN, table=TABLE, shift=SHIFT, weights=WEIGHTS):
    head = lambda x: jnp.tanh(x @ table + shift)
    return cross_entropy.scored(head, hidden, TARGETS, weights, "nll", TokenLoss(chunks))


def plain(hidden=HIDDEN, table=TABLE, shift=SHIFT):
    logits = jax.nn.log_softmax(jnp.tanh(hidden @ table + shift))
    nll = -jnp.take_along_axis(logits, TARGETS[..., None], -1)[..., 0]
    return (nll * WEIGHTS).sum(1)


@pytest.mark.parametrize("chunks", [0, 1, 3, 5, 12])
def test_values_and_gradients(chunks):
    """Of the hidden states and of everything that the head closes over, also under a scale (the step's 1 / W)."""
    found = by_chunks(chunks)
    close(found.totals["nll"], plain().sum())
    close(found.per_row["nll"], plain())
    scaled = lambda f: lambda *arrays: 0.37 * f(*arrays)
    total = lambda *arrays: by_chunks(chunks, *arrays).totals["nll"]
    arrays = (HIDDEN, TABLE, SHIFT)
    for transform in (lambda f: f, jax.jit):
        found = transform(jax.grad(scaled(total), (0, 1, 2)))(*arrays)
        jax.tree.map(close, found, jax.grad(scaled(lambda *a: plain(*a).sum()), (0, 1, 2))(*arrays))


@pytest.mark.parametrize("loss", [TokenLoss(3, z=0.3), TokenLoss(1, smoothing=0.2), TokenLoss(5, 1e-2, 0.1)])
def test_what_a_loss_adds(loss):
    """z times (ln sum exp)^2, and a share of the target spread over all tokens but the columns of padding; the plain negative
    log-likelihood stays a metric, and is all that an evaluation sees."""
    padded = 4

    def head(hidden, table):
        logits = jnp.pad(hidden @ table, [(0, 0)] * 2 + [(0, padded)])
        return jnp.where(jnp.arange(VOCABULARY + padded) < VOCABULARY, logits, jnp.finfo(logits.dtype).min / 2)

    def ours(hidden, table, loss=loss):
        outcome = cross_entropy.scored(lambda x: head(x, table), hidden, TARGETS, WEIGHTS, "nll", loss)
        return outcome.totals["nll"], outcome

    def wanted(hidden, table):
        logits = hidden @ table
        log = jax.nn.logsumexp(logits, -1)
        target = (1 - loss.smoothing) * jax.nn.one_hot(TARGETS, VOCABULARY) + loss.smoothing / VOCABULARY
        score = -(target * jax.nn.log_softmax(logits)).sum(-1) + loss.z * log**2
        return (score * WEIGHTS).sum(), (score * WEIGHTS).sum(1)

    (total, outcome), gradients = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(HIDDEN, TABLE)
    (by_hand, per_row), expected = jax.value_and_grad(wanted, (0, 1), has_aux=True)(HIDDEN, TABLE)
    close(total, by_hand)
    close(ours(HIDDEN, TABLE)[0], by_hand)
    close(outcome.per_row["nll"], per_row)
    jax.tree.map(close, gradients, expected)
    unsmoothed = ours(HIDDEN, TABLE, loss.when(False))[1]
    close(outcome.metrics["nll"].total, unsmoothed.totals["nll"])
    assert "nll" not in unsmoothed.metrics and abs(total - unsmoothed.totals["nll"]) > 1e-3


@pytest.mark.parametrize("chunks", [0, 5])
def test_hits_and_accuracy(chunks):
    """A hit is a target of the largest logit; the metric is their weighted share, with and without a gradient."""
    chosen = np.tanh(HIDDEN @ TABLE + SHIFT)
    targets = np.where(np.arange(LENGTH) % 3, TARGETS, chosen.argmax(-1))
    wanted = (targets == chosen.argmax(-1)) & (WEIGHTS > 0)
    assert 0 < wanted.sum() < (WEIGHTS > 0).sum()

    def total(hidden):
        head = lambda x: jnp.tanh(x @ TABLE + SHIFT)
        outcome, hits = cross_entropy.judged(head, hidden, targets, WEIGHTS, "nll", TokenLoss(chunks))
        return outcome.totals["nll"], (hits, outcome.metrics["accuracy"])

    for _, (hits, accuracy) in (total(HIDDEN), jax.jit(jax.value_and_grad(total, has_aux=True))(HIDDEN)[0]):
        np.testing.assert_array_equal(hits, wanted)
        close(accuracy.total, WEIGHTS[wanted].sum(dtype=float))
        close(accuracy.weight, WEIGHTS.sum(dtype=float))
        assert accuracy.total.dtype == accuracy.weight.dtype == float


def test_gradient_through_a_scan():
    """As in accumulation: the outer program is traced before it is differentiated."""

    def total(table):
        step = lambda carry, scale: (carry + scale * by_chunks(4, table=table).totals["nll"], None)
        return jax.lax.scan(step, 0.0, jnp.array([1.0, 2.0]))[0]

    close(jax.jit(jax.grad(total))(TABLE), 3 * jax.grad(lambda table: plain(table=table).sum())(TABLE))


def test_targets_of_weight_zero_are_not_looked_at():
    """Not even where the model is not finite there: neither value nor any gradient."""
    weights = np.ones((ROWS, LENGTH), "f4")
    weights[0, 3] = 0
    hidden = HIDDEN.copy()
    hidden[0, 3] = np.nan
    total = lambda hidden, table: by_chunks(3, hidden, table, weights=weights).totals["nll"]
    value, gradients = jax.value_and_grad(total, (0, 1))(hidden, TABLE)
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)
    assert not gradients[0][0, 3].any()


def test_integers_of_the_head():
    """A traced integer that the head closes over, under remat: everything that it reads is an argument."""

    def total(table, limit):
        head = lambda x: jnp.where(jnp.arange(VOCABULARY) < limit, x @ table, -30.0)
        return cross_entropy.scored(head, HIDDEN, TARGETS, WEIGHTS, "nll", TokenLoss(3)).totals["nll"]

    plainly = jax.grad(total)(TABLE, VOCABULARY)
    close(jax.jit(jax.grad(jax.checkpoint(total)))(TABLE, jnp.int32(VOCABULARY)), plainly)


def test_the_gradient_of_the_head_is_summed_wide():
    """512 chunks of half a unit each are 256: summed in bfloat16 they would stop at 128, where a half is lost."""
    ones, table = np.ones((1, 512, 1), "f4"), jnp.zeros((1, 2), jnp.bfloat16)

    def total(table):
        head = lambda x: x @ table
        return cross_entropy.scored(head, ones, np.zeros((1, 512), int), ones[..., 0], "nll", TokenLoss(512)).totals[
            "nll"
        ]

    assert jax.grad(total)(table).tolist() == [[-256.0, 256.0]]


def shapes(jaxpr):
    """Every array shape in a program and the programs inside it."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield tuple(getattr(variable.aval, "shape", ()))
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from shapes(inner)


def test_whole_logits_are_never_made():
    """No array of the differentiated program has rows x T x V entries, nor T x V of one row."""
    total = lambda hidden, table: by_chunks(4, hidden, table).totals["nll"]
    program = jax.make_jaxpr(jax.value_and_grad(total, (0, 1)))(HIDDEN, TABLE)
    sizes = [int(np.prod(shape)) for shape in shapes(program.jaxpr)]
    assert max(sizes) < ROWS * LENGTH * VOCABULARY
    assert ROWS * (LENGTH // 4) * VOCABULARY in sizes, "the check sees the chunks inside the loop"


def test_a_frozen_head_has_no_gradient_product():
    """Only what is differentiated is multiplied for: adapters of a frozen model do not pay for its head."""

    def products(wanted):
        total = lambda hidden, table: by_chunks(1, hidden, table).totals["nll"]
        program = jax.make_jaxpr(jax.grad(total, wanted))(HIDDEN, TABLE)
        return str(program).count("dot_general")

    assert products((0,)) == products((0, 1)) - 1


@pytest.mark.parametrize(
    "rows, length, vocabulary, wanted",
    [
        (8, 128, 320, 4),
        (8, 256, 8192, 4),
        (32, 1024, 50257, 25),
        (2, 8192, 128256, 16),
        (1, 3, 9, 1),
        (8, 57, 32128, 1),
        (8, 521, 16384, 4),
    ],
)
def test_chunks_for(rows, length, vocabulary, wanted):
    assert cross_entropy.chunks_for(rows, length, vocabulary) == wanted


def test_one_collective_for_all_chunks():
    """Rows over eight devices: chunks are summed where they are, and the table's gradient crosses devices once."""
    rules = Rules(make_mesh(MeshConfig(8)))
    rows = lambda x: jax.device_put(np.repeat(x, 8, 0), rules.rows(np.repeat(x, 8, 0).shape))
    hidden, targets, weights = map(rows, (HIDDEN, TARGETS, WEIGHTS))

    def total(hidden, table):
        with rules.bound():
            head = lambda x: jnp.tanh(constrain(x @ table + SHIFT, "batch", "length", "act_vocab"))
            return cross_entropy.scored(head, hidden, targets, weights, "nll", TokenLoss(4)).totals["nll"]

    program = jax.jit(jax.value_and_grad(total, (0, 1))).lower(hidden, TABLE).compile()
    body = loops(program.as_text())
    assert any("dot(" in line or "fusion(" in line for line in body), "the loop is there"
    assert not [line for line in body if re.search(r"= \S+ (all-|reduce-scatter|collective)", line)]
    assert "all-reduce" in program.as_text()
    value, (to_hidden, to_table) = program(hidden, TABLE)
    close(value, 8 * plain().sum())
    wanted = jax.grad(lambda hidden, table: plain(hidden, table).sum(), (0, 1))(HIDDEN, TABLE)
    close(to_table, 8 * wanted[1])
    close(to_hidden, np.repeat(wanted[0], 8, 0))
