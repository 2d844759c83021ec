"""Masked language modelling: frames, what is hidden, what has weight, the loss, two sentences, packed rows."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy import stats

from pretrainx.core import axes, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.masked_lm import MaskedLmConfig

PAD, EOS, CLS, SEP, MASK = range(5)
SENTINEL, SIZE, LENGTH, ROWS = 59, 60, 24, 240
VOCABULARY = Vocabulary(
    SIZE, tuple(zip(("pad", "eos", "cls", "sep", "mask"), range(5), strict=True)), sentinels=(SENTINEL,)
)
ORDINARY = range(5, SENTINEL)
MODEL = EncoderConfig(width=8, depth=1, heads=2, vocab_multiple=16, unroll=0)
PAIRED = dataclasses.replace(MODEL, types=2, pooler=True)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(model=MODEL, vocabulary=VOCABULARY, length=LENGTH, segmented=False, **config):
    return MaskedLmConfig(**config).build(model, vocabulary, length, Precision("float64", "float64"), segmented)


def rows_of(objective, rows=ROWS):
    """Ordinary tokens, some ends of documents, uneven padding at the end of some rows."""
    spec = objective.batch_spec(rows)
    width = spec["tokens"].shape[1]
    batch = {"valid": np.ones(rows, bool)}
    for name in ("tokens", "other"):
        if name in spec:
            tokens = rng.integers(5, SENTINEL, (rows, width)).astype(np.int32)
            tokens[rng.uniform(size=tokens.shape) < 0.05] = EOS
            tokens[1] = np.where(np.arange(width) < 9, tokens[1], PAD)
            batch[name] = tokens
    if "words" in spec:
        batch["words"] = rng.uniform(size=(rows, width)) < 0.5
    if "segments" in spec:
        batch["segments"] = np.sort(rng.integers(1, 4, (rows, width)), 1).astype(np.int32) * (batch["tokens"] != PAD)
    return batch


@functools.partial(jax.jit, static_argnums=0)
def observed(objective, batch, step=0):
    keys = objective.row_keys(random.stream(0, random.OBSERVE, step), batch)
    return objective.observe_rows(keys, batch, step)


def parameters(objective):
    """Noise in every leaf: an initial norm or bias hides faults."""
    draw = np.random.default_rng(1)
    shapes = axes.unbox(jax.eval_shape(objective.init, jax.random.key(0), objective.batch_spec(1)))
    return jax.tree.map(lambda x: 0.3 + 0.3 * draw.standard_normal(x.shape), shapes)


@functools.partial(jax.jit, static_argnums=0)
def scored(objective, params, seen):
    """((loss, outcome), gradients): one program for all tests of an objective."""

    def loss(params):
        outcome = objective.encode(params, {}, seen, None, 0, train=False)
        return sum(outcome.totals.values()), outcome

    return jax.value_and_grad(loss, has_aux=True)(params)


def encoded(objective, params, seen):
    return scored(objective, params, seen)[0][1]


@functools.partial(jax.jit, static_argnums=(0, 3))
def outputs(objective, params, inputs, names):
    return objective.outputs(params, {}, inputs, names)


CASES = {
    "bernoulli": {},
    "exact": {"selection": "exact"},
    "exact words": {"whole_word": True, "selection": "exact"},
    "bare": {"special_tokens": False},
    "short": {"short_fraction": 0.3},
    "packed": {"special_tokens": False, "segmented": True},
    "pairs": {"next_sentence": True, "model": PAIRED},
}
each_case = pytest.mark.parametrize("case", CASES)


def made(case):
    objective = build(**CASES[case])
    return objective, rows_of(objective)


@each_case
def test_what_is_hidden(case):
    """Never a special token, mark or padding; what is not selected is as it was; weights are those of the selected."""
    objective, batch = made(case)
    seen = jax.device_get(observed(objective, batch))
    text = seen.targets["tokens"] if case == "pairs" else seen.targets
    weights, tokens = seen.weights["nll"], seen.inputs["tokens"]
    assert tokens.dtype == text.dtype == np.int32 and tokens.shape == text.shape == (ROWS, LENGTH)
    chosen = weights > 0
    assert chosen.any(1).mean() > 0.7 and np.isin(text[chosen], ORDINARY).all() and set(np.unique(weights)) == {0, 1}
    np.testing.assert_array_equal(tokens[~chosen], text[~chosen])
    assert np.isin(tokens[chosen], [MASK, *ORDINARY]).all() and (tokens[chosen] == MASK).mean() > 0.6
    np.testing.assert_array_equal(seen.inputs["segments"] > 0, text != PAD)
    if CASES[case].get("selection") == "exact":
        real = (text != PAD).sum(1)
        budget = np.maximum(1, [round(0.15 * n) for n in real.tolist()])
        assert (weights.sum(1) <= budget).all()
        if case == "exact":
            np.testing.assert_array_equal(weights.sum(1), budget)


def test_frames():
    """[CLS] text [SEP], the padding behind the last mark."""
    objective, batch = made("bernoulli")
    text = np.asarray(observed(objective, batch).targets)
    np.testing.assert_array_equal(text[0], [CLS, *batch["tokens"][0], SEP])
    np.testing.assert_array_equal(text[1], [CLS, *batch["tokens"][1, :9], SEP] + [PAD] * (LENGTH - 11))
    bare, batch = made("bare")
    np.testing.assert_array_equal(observed(bare, batch).targets, batch["tokens"])


def test_frames_of_roberta():
    """ "bos" and "eos" where a tokenizer has no "cls"; an end of the text itself is not doubled, inside a row it is text."""
    objective = build(vocabulary=Vocabulary(SIZE, (("bos", 0), ("pad", 1), ("eos", 2), ("mask", 4))))
    texts = [[9] * 5, [9, 2, 9, 2], [2], [2] * (LENGTH - 2)]
    padded = lambda rows, width: np.array([row + [1] * (width - len(row)) for row in rows], np.int32)
    batch = {"tokens": padded(texts, LENGTH - 2), "valid": np.ones(4, bool)}
    wanted = [[0, *texts[0], 2], [0, *texts[1]], [0, 2], [0, *texts[3], 2]]
    np.testing.assert_array_equal(observed(objective, batch).targets, padded(wanted, LENGTH))


def test_a_mask_is_of_seed_step_and_row():
    """Alone or in a batch a row has the same mask; another step has another."""
    objective, batch = made("exact words")
    whole, few = observed(objective, batch), observed(objective, jax.tree.map(lambda x: x[:5], batch))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:5], y), whole, few)
    assert (np.asarray(observed(objective, batch, 1).weights["nll"]) != whole.weights["nll"]).any()


def test_the_text_of_hidden_places_is_not_seen():
    """Another id at a masked place changes nothing in the inputs, one at a place without weight nothing in the loss."""
    objective, batch = made("bernoulli")
    seen = jax.device_get(observed(objective, batch))
    masked = (seen.inputs["tokens"] == MASK)[:, 1:-1]
    batch["tokens"] = np.where(masked, 5 + (batch["tokens"] + 7) % (SENTINEL - 5), batch["tokens"]).astype(np.int32)
    again = jax.device_get(observed(objective, batch))
    jax.tree.map(np.testing.assert_array_equal, seen.inputs, again.inputs)
    np.testing.assert_array_equal(seen.weights["nll"], again.weights["nll"])
    assert (seen.targets != again.targets).any()

    params = parameters(objective)
    altered = seen.replace(targets=np.where(seen.weights["nll"] > 0, seen.targets, 11))
    one, two = (encoded(objective, params, each) for each in (seen, altered))
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("case", ["bernoulli", "pairs"])
def test_padding_is_not_attended(case):
    """What stands in the padding changes no loss."""
    objective, batch = made(case)
    params, seen = parameters(objective), jax.device_get(observed(objective, batch))
    tokens = np.where(seen.inputs["segments"] > 0, seen.inputs["tokens"], 17)
    assert (tokens != seen.inputs["tokens"]).any()
    other = seen.replace(inputs=seen.inputs | {"tokens": tokens})
    one, two = (encoded(objective, params, each) for each in (seen, other))
    np.testing.assert_allclose(one.per_row["nll"], two.per_row["nll"], rtol=1e-12)
    assert one.metrics["accuracy"].weight == seen.weights["nll"].sum()


def test_loss_and_accuracy():
    """-log p(text) at the selected places, from the outputs' logits."""
    objective, batch = made("bernoulli")
    params, seen = parameters(objective), observed(objective, batch)
    logits = np.asarray(outputs(objective, params, seen.inputs, ("logits", "hidden", "features"))["logits"])
    assert logits.shape == (ROWS, LENGTH, SIZE)
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(seen.targets)[..., None], -1)[..., 0]
    outcome, weights = encoded(objective, params, seen), np.asarray(seen.weights["nll"])
    np.testing.assert_allclose(outcome.per_row["nll"], (nll * weights).sum(1), rtol=1e-11)
    accuracy = outcome.metrics["accuracy"]
    hits = (logits.argmax(-1) == seen.targets)[weights > 0]
    assert 0 < hits.sum() == accuracy.total and accuracy.weight == len(hits)


@pytest.mark.parametrize("case", ["bernoulli", "packed"])
def test_gathered_is_dense(case):
    """The same loss, accuracy and gradients to 1e-12, though the head reads fewer tokens."""
    gathered, batch = made(case)
    dense = dataclasses.replace(gathered, config=dataclasses.replace(gathered.config, gather=False))
    params, seen = parameters(gathered), observed(gathered, batch)
    jax.tree.map(np.testing.assert_array_equal, seen, observed(dense, batch))

    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * max(1, np.abs(y).max()))
    jax.tree.map(close, scored(gathered, params, seen), scored(dense, params, seen))
    assert gathered.config.predictions(LENGTH) < LENGTH


def test_predictions_are_limited():
    """Selected tokens above the limit are hidden and have no weight."""
    limited = build(max_predictions=2, mask_fraction=0.5)
    seen = jax.device_get(observed(limited, rows_of(limited)))
    assert (seen.weights["nll"].sum(1) <= 2).all() and (seen.inputs["tokens"] == MASK).sum(1).mean() > 5


def test_packed_documents_are_separate_ones():
    """A row of two documents and padding has the losses of the documents alone: attention and positions restart."""
    objective, _ = made("packed")
    params, documents = parameters(objective), ([7, MASK, 9, EOS], [12, 8, MASK, 6, 30, EOS])
    rows = lambda *rows: np.resize([[*row, *[0] * (LENGTH - len(row))] for row in rows], (ROWS, LENGTH)).astype(
        np.int32
    )
    tokens, segments = rows(sum(documents, [])), rows([1] * 4 + [2] * 6)
    seen = observed(objective, {"tokens": tokens, "segments": segments, "valid": np.ones(ROWS, bool)})
    np.testing.assert_array_equal(seen.inputs["segments"], segments)
    logits = lambda inputs: np.asarray(outputs(objective, params, inputs, ("logits",))["logits"])
    together = logits(seen.inputs | {"tokens": tokens})[0]
    segments, positions = rows([1] * 4, [1] * 6), rows(range(LENGTH))
    alone = logits({"tokens": rows(*documents), "segments": segments, "positions": positions})
    np.testing.assert_allclose(together[:4], alone[0, :4], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(together[4:10], alone[1, :6], rtol=1e-10, atol=1e-12)


def test_two_sentences():
    """[CLS] A [SEP] B [SEP]: B goes on where A ends, or is the other row's, in half of the rows; types tell them apart."""
    objective, batch = made("pairs")
    seen = jax.device_get(observed(objective, batch))
    text, label, types = seen.targets["tokens"], seen.targets["next_sentence"], seen.inputs["types"]
    width, splits = LENGTH - 3, []
    for row in range(len(text)):
        end = 9 if row == 1 else width
        split = int(np.flatnonzero(text[row] == SEP)[0]) - 1
        source = batch["other" if label[row] else "tokens"][row]
        wanted = [CLS, *batch["tokens"][row, :split], SEP, *source[split:end], SEP] + [PAD] * (width - end)
        np.testing.assert_array_equal(text[row], wanted)
        np.testing.assert_array_equal(types[row], [0] * (split + 2) + [1] * (end - split + 1) + [0] * (width - end))
        splits += [split] if row != 1 else []
    assert stats.binomtest(int(label.sum()), len(label)).pvalue > 1e-3
    counts = np.bincount(splits, minlength=width)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3, "split anywhere"
    assert seen.weights["next_sentence"].tolist() == [1.0] * len(label)


def test_next_sentence_loss():
    """-log p(label) of the pooled first token, one per row, and its accuracy; a row that is not valid has none."""
    objective, batch = made("pairs")
    batch["valid"][3] = False
    params, seen = parameters(objective), observed(objective, batch)
    assert {term.name: term.coefficient for term in objective.terms} == {"nll": 1.0, "next_sentence": 1.0}
    outcome = encoded(objective, params, seen)
    pooled = outputs(objective, params, seen.inputs, ("pooled",))["pooled"]
    logits = np.asarray(pooled @ params["relation"]["kernel"] + params["relation"]["bias"])
    label = np.asarray(seen.targets["next_sentence"])
    nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(ROWS), label]
    weights = np.arange(ROWS) != 3
    np.testing.assert_allclose(outcome.per_row["next_sentence"], nll * weights, rtol=1e-11)
    np.testing.assert_allclose(outcome.totals["next_sentence"], (nll * weights).sum(), rtol=1e-11)
    accuracy = outcome.metrics["next_sentence_accuracy"]
    assert accuracy.total == ((logits.argmax(-1) == label) & weights).sum() and accuracy.weight == ROWS - 1


def test_short_rows():
    """The share asked for is cut, to any length from 2 tokens on; what is cut off is padding without weight."""
    objective, batch = made("short")
    batch["tokens"] = np.where(batch["tokens"] == PAD, 9, batch["tokens"]).astype(np.int32)
    seen = jax.device_get(observed(objective, batch))
    lengths, width = (seen.targets != PAD).sum(1) - 2, LENGTH - 2
    counts = np.bincount(lengths, minlength=width + 1)
    assert not counts[:2].any() and (counts[2:] > 0).sum() > width / 2
    # One in width - 1 of the drawn lengths is the whole row.
    assert stats.binomtest(int((lengths < width).sum()), ROWS, 0.3 * (width - 2) / (width - 1)).pvalue > 1e-3
    assert not seen.weights["nll"][seen.targets == PAD].any()


def test_outputs():
    """Features are the mean over real tokens; without segments the padding is known by its id."""
    objective, batch = made("bernoulli")
    params, seen = parameters(objective), observed(objective, batch)
    names = ("logits", "hidden", "features")
    found = outputs(objective, params, {"tokens": seen.inputs["tokens"]}, names)
    with_segments = outputs(objective, params, seen.inputs, names)
    jax.tree.map(np.testing.assert_array_equal, found, with_segments)
    real = np.asarray(seen.inputs["segments"] > 0)
    np.testing.assert_allclose(found["features"][1], np.asarray(found["hidden"])[1][real[1]].mean(0), rtol=1e-12)
    with pytest.raises(ValueError, match="no output 'logit': did you mean 'logits'"):
        outputs(objective, params, seen.inputs, ("logit",))
    with pytest.raises(ValueError, match="no output 'pooled'"):
        outputs(objective, params, seen.inputs, ("pooled",))


def test_an_encoder_without_a_head_has_features_only():
    objective = build(dataclasses.replace(MODEL, head="none", pooler=True))
    params = parameters(objective)
    seen = observed(build(), rows_of(objective))
    assert "transform" not in params and outputs(objective, params, seen.inputs, ("pooled",))["pooled"].shape == (
        ROWS,
        8,
    )
    with pytest.raises(ConfigError) as error:
        encoded(objective, params, seen)
    assert error.value.where == "config.model.head"


def test_an_idle_pooler_is_frozen():
    alone, paired = build(PAIRED), build(PAIRED, next_sentence=True)
    assert [alone.trains(path) for path in ("pooler/kernel", "relation/bias", "token/table")] == [False, False, True]
    assert paired.trains("pooler/kernel") and paired.trains("relation/bias")


def test_equal_configs_are_equal():
    assert build() == build() and hash(build()) == hash(build()) and build() != build(gather=False)
    assert build().flops_per_row() < build(gather=False).flops_per_row()


@pytest.mark.parametrize(
    "where, arguments",
    [
        ("config.objective.keep_prob", {"mask_prob": 0.9}),
        ("config.objective.special_tokens", {"segmented": True}),
        ("config.objective.special_tokens", {"next_sentence": True, "special_tokens": False}),
        ("config.objective.whole_word", {"next_sentence": True, "whole_word": True, "model": PAIRED}),
        ("config.model.pooler", {"next_sentence": True}),
        ("config.model.types", {"next_sentence": True, "model": dataclasses.replace(MODEL, pooler=True, types=1)}),
        ("config.model.name", {"model": DecoderConfig(width=8, depth=1, heads=2)}),
        ("config.data.length", {"length": 3}),
        ("config.data.specials", {"vocabulary": Vocabulary(9, (("pad", 0), ("eos", 1)))}),
        ("config.data.specials", {"vocabulary": Vocabulary(9, (("pad", 0), ("eos", 1), ("mask", 2)))}),
    ],
)
def test_what_cannot_be_meant(where, arguments):
    with pytest.raises(ConfigError) as error:
        build(**arguments)
    assert error.value.where == where and error.value.why and error.value.do
    if "vocabulary" in arguments:
        assert "--config.data.specials=\"('mask', 'cls', 'sep')\"" in error.value.do, "all that are needed"
