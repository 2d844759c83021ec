"""Classes and numbers of texts: losses by hand, pools, padding, what pretraining had, rows by form, what is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from pretrainx.core import axes, paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.labelled_text import rows_for
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.sequence_classification import SequenceClassificationConfig
from pretrainx.objectives.sequence_regression import SequenceRegressionConfig
from pretrainx.training.state import example_batch

WIDE = Precision("float64", "float64")
VOCABULARY = Vocabulary(40, (("pad", 0), ("eos", 1), ("mask", 2), ("cls", 3), ("sep", 4)))
SIZES = {"width": 8, "depth": 1, "heads": 2, "vocab_multiple": 8, "max_length": 16}
BERT = EncoderConfig(**SIZES, types=2, pooler=True)
BARE = EncoderConfig(**SIZES, positions="rotary", norm_first=True)
GPT = DecoderConfig(**SIZES)
ROWS, WIDTH = 6, 10
LENGTHS = np.array([10, 4, 7, 5, 8, 6])
RNG = np.random.default_rng(0)
TOKENS = np.where(np.arange(WIDTH) < LENGTHS[:, None], RNG.integers(5, 40, (ROWS, WIDTH)), 0).astype(np.int32)
TYPES = ((np.arange(WIDTH) >= 3) & (TOKENS > 0)).astype(np.int32)
BATCH = {"tokens": TOKENS, "label": np.int32([0, 1, 2, -1, 1, 2]), "valid": np.arange(ROWS) != 4}
COUNTS = np.array([True, True, True, False, False, True])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(config, model, about=Labelled(VOCABULARY, "class", ("a", "b", "c"))):
    """(objective, parameters with noise)"""
    with jax.enable_x64(True):
        objective = config.build(model, about, (WIDTH, 0), WIDE)
        params = jax.jit(lambda key: axes.unbox(objective.init(key, example_batch(objective, 2))))(jax.random.key(0))
        rng = np.random.default_rng(1)
        return objective, jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape), params)


@functools.partial(jax.jit, static_argnums=(0, 3))
def scored(objective, params, batch, train=False):
    keys = objective.row_keys(random.stream(0, random.OBSERVE, 0), batch)
    observation = objective.observe_rows(keys, batch, 0)
    return observation, objective.encode(params, {}, observation, keys, 0, train=train)


@functools.partial(jax.jit, static_argnums=(0, 3))
def outputs(objective, params, inputs, names=("logits", "features", "hidden")):
    return objective.outputs(params, {}, inputs, names)


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def slowly(*values):
    """Parameters that only CI runs: others are of the same form."""
    return [pytest.param(value, marks=[pytest.mark.slow, pytest.mark.rotated]) for value in values]


@pytest.mark.parametrize("smoothing", [*slowly(0.0), 0.3])
def test_the_loss_by_hand(smoothing):
    """Rows that are not valid or whose label is no class have no weight; labels are smoothed in training alone."""
    objective, params = made(SequenceClassificationConfig(dropout=0.0, label_smoothing=smoothing), BARE)
    logits = np.asarray(outputs(objective, params, {"tokens": TOKENS})["logits"])
    found = log_softmax(logits)[COUNTS]
    labels = BATCH["label"][COUNTS]
    nll = -found[np.arange(4), labels]
    for train in (False, True):
        observation, outcome = scored(objective, params, BATCH, train)
        assert np.array_equal(observation.weights["nll"], COUNTS)
        share = smoothing if train else 0.0
        wanted = ((1 - share) * nll - share * found.mean(1)).sum()
        assert abs(outcome.totals["nll"] - wanted) < 1e-10
        hits = outcome.metrics["accuracy"]
        assert (hits.total, hits.weight) == ((found.argmax(1) == labels).sum(), 4)


CASES = {
    "pooler": (SequenceClassificationConfig(), BERT),
    "cls": (SequenceClassificationConfig("dense", pool="cls"), BARE),
    "mean": (SequenceClassificationConfig(), BARE),
    "last": (SequenceClassificationConfig(), GPT),
    "regression": (SequenceRegressionConfig(pool="mean"), GPT),
}


@pytest.mark.parametrize("name", ["pooler", *slowly("last", "cls", "mean", "regression")])
def test_padding_changes_nothing(name):
    config, model = CASES[name]
    about = Labelled(VOCABULARY, "number") if name == "regression" else Labelled(VOCABULARY, "class", ("a", "b"), True)
    objective, params = made(config, model, about)
    inputs = {"tokens": TOKENS} | ({"types": TYPES} if objective.form.types else {})
    wider = {key: np.pad(value, ((0, 0), (0, 5))) for key, value in inputs.items()}
    narrow, wide = outputs(objective, params, inputs), outputs(objective, params, wider)
    for key in ("logits", "features"):
        assert np.abs(narrow[key] - wide[key]).max() < 1e-12
    # And what a text is, does.
    assert (
        np.abs(outputs(objective, params, inputs | {"tokens": TOKENS[::-1]})["logits"] - narrow["logits"]).max() > 0.01
    )


@pytest.mark.slow
@pytest.mark.rotated
def test_the_vector_that_is_scored():
    """Of the first token, of the last one, of all of them; a pooler in front of the head."""
    found = outputs(*made(SequenceClassificationConfig(pool="cls"), BARE), {"tokens": TOKENS})
    assert np.abs(found["features"] - found["hidden"][:, 0]).max() < 1e-12
    found = outputs(*made(SequenceClassificationConfig(pool="mean"), BARE), {"tokens": TOKENS})
    wanted = [row[:length].mean(0) for row, length in zip(found["hidden"], LENGTHS, strict=True)]
    assert np.abs(found["features"] - np.stack(wanted)).max() < 1e-12
    found = outputs(*made(SequenceClassificationConfig(), GPT), {"tokens": TOKENS})
    assert np.abs(found["features"] - found["hidden"][np.arange(ROWS), LENGTHS - 1]).max() < 1e-12
    objective, params = made(SequenceClassificationConfig(), BERT)
    found = outputs(objective, params, {"tokens": TOKENS})
    pooled = objective.model.apply({"params": params}, found["hidden"], method="pooled")
    assert np.abs(found["features"] - pooled).max() < 1e-12


@pytest.mark.parametrize("kind", ["dense", *slowly("linear")])
def test_the_head_is_linear_or_dense(kind):
    objective, params = made(SequenceClassificationConfig(kind), BARE)
    found, task = outputs(objective, params, {"tokens": TOKENS}), params["task"]
    vector = np.asarray(found["features"])
    if kind == "dense":
        vector = np.tanh(vector @ task["dense"]["kernel"] + task["dense"]["bias"])
    wanted = vector @ task["classes"]["kernel"] + task["classes"]["bias"]
    assert np.abs(found["logits"] - wanted).max() < 1e-10


def test_two_texts_are_told_apart_by_their_type():
    objective, params = made(SequenceClassificationConfig(), BERT, Labelled(VOCABULARY, "class", ("a", "b"), True))
    logits = [outputs(objective, params, {"tokens": TOKENS, "types": types})["logits"] for types in (TYPES, 0 * TYPES)]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    batch = BATCH | {"label": np.int32([0, 1, 0, 1, 0, 1]), "types": TYPES}
    _, outcome = scored(objective, params, batch)
    nll = -log_softmax(np.asarray(logits[0]))[np.arange(ROWS), batch["label"]]
    assert abs(outcome.totals["nll"] - nll[batch["valid"]].sum()) < 1e-10


def test_dropout_is_in_the_head():
    objective, params = made(SequenceClassificationConfig(dropout=0.5), BARE)
    still, moved = scored(objective, params, BATCH)[1], scored(objective, params, BATCH, True)[1]
    assert abs(still.totals["nll"] - moved.totals["nll"]) > 1e-3


@pytest.mark.parametrize(
    "model, pretraining, more",
    [(BERT, MaskedLmConfig(), {"pooler"}), (GPT, AutoregressiveConfig(), set())],
)
def test_parameters_stand_where_pretraining_had_them(model, pretraining, more):
    """Without what predicts tokens, with the pooler where it is read, and the head beside them."""
    about = Labelled(VOCABULARY, "class", ("a", "b", "c"))
    objective = SequenceClassificationConfig().build(model, about, (WIDTH, 0), WIDE)
    before = pretraining.build(model, VOCABULARY, WIDTH, WIDE)

    def shapes_of(each):
        made = jax.eval_shape(lambda key: axes.unbox(each.init(key, example_batch(each, 2))), jax.random.key(0))
        return {path: leaf.shape for path, leaf in paths.leaves(made)}

    shapes = shapes_of(before)
    ours = {path: shape for path, shape in shapes_of(objective).items() if path.split("/")[0] not in objective.heads}
    assert ours.items() <= shapes.items()
    left = {path.split("/")[0] for path in shapes.keys() - ours.keys()}
    assert left <= {"transform", "transform_norm", "logit_bias", "relation"}
    assert more <= {path.split("/")[0] for path in ours}


def test_a_pooler_that_nothing_reads_is_left_out():
    objective = SequenceClassificationConfig(pool="mean").build(BERT, ABOUT, (WIDTH, 0), WIDE)
    assert "pooler" not in jax.eval_shape(lambda: objective.init(jax.random.key(0), example_batch(objective, 2)))


@pytest.mark.parametrize("standardise", [True, *slowly(False)])
def test_numbers_are_learned_around_their_mean(standardise):
    about = Labelled(VOCABULARY, "number", mean=5.0, std=3.0)
    labels = np.float32([2, 5, 8, 11, 5, 4])
    batch = {**BATCH, "label": labels}
    mean, std = (5.0, 3.0) if standardise else (0.0, 1.0)
    objective, params = made(SequenceRegressionConfig(standardise=standardise), BARE, about)
    found = np.asarray(outputs(objective, params, {"tokens": TOKENS})["logits"])[:, 0]
    _, outcome = scored(objective, params, batch)
    error = (found - (labels - mean) / std)[batch["valid"]]
    assert abs(outcome.totals["mse"] - (error**2).sum()) < 1e-6
    metric = outcome.metrics["squared_error"]
    assert abs(metric.total / metric.weight - ((error * std) ** 2).mean()) < 1e-6


def test_rows_by_model():
    specials = lambda **ids: Vocabulary(40, tuple({"pad": 0, "eos": 1, **ids}.items()))
    pairs = Labelled(specials(cls=2, sep=3), pairs=True)
    bert = rows_for(BERT, pairs, 16)
    assert (bert.begin, bert.between, bert.end, bert.types) == (("cls",), ("sep",), ("sep",), True)
    assert not rows_for(BARE, pairs, 16).types
    roberta = rows_for(BERT, Labelled(specials(cls=2, sep=1, bos=2), pairs=True), 16)
    assert roberta.between == ("sep", "sep") and roberta.marks == 4
    only = rows_for(BERT, Labelled(specials(bos=2), pairs=True), 16)
    assert (only.begin, only.between, only.end) == (("bos",), ("eos", "eos"), ("eos",))
    gpt = rows_for(GPT, Labelled(specials(), pairs=True), 16)
    assert (gpt.begin, gpt.between, gpt.end, gpt.types) == ((), ("eos",), ("eos",), False)
    assert rows_for(GPT, Labelled(specials(bos=2)), 16).begin == ("bos",)


ABOUT = Labelled(VOCABULARY, "class", ("a", "b"))


@pytest.mark.parametrize(
    "config, model, about, where",
    [
        (SequenceClassificationConfig(pool="cls"), GPT, ABOUT, "config.objective.pool"),
        (SequenceClassificationConfig(), VitConfig(8, 1, 2, patch=4), ABOUT, "config.model.name"),
        (SequenceClassificationConfig(), BERT, dataclasses.replace(ABOUT, target="number"), "config.data.target"),
        (SequenceClassificationConfig(), BERT, dataclasses.replace(ABOUT, classes=("a",)), "config.data.label"),
        (SequenceRegressionConfig(), BERT, ABOUT, "config.data.target"),
    ],
)
def test_what_does_not_fit_is_refused(config, model, about, where):
    with pytest.raises(ConfigError) as caught:
        config.build(model, about, (WIDTH, 0), WIDE)
    assert caught.value.where == where
