"""Tags of words, answers in a text, texts from texts: losses and metrics by hand, masks, what is cut off."""

import functools

import jax
import numpy as np
import pytest

from pretrainx.core import axes, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.question_answering import QuestionAnsweringConfig, likeliest
from pretrainx.objectives.text_to_text import TextToTextConfig
from pretrainx.objectives.token_classification import TokenClassificationConfig
from pretrainx.training.state import example_batch

WIDE = Precision("float64", "float64")
VOCABULARY = Vocabulary(40, (("pad", 0), ("eos", 1), ("cls", 3), ("sep", 4)))
SIZES = {"width": 8, "depth": 1, "heads": 2, "vocab_multiple": 8, "max_length": 24}
BERT, GPT = EncoderConfig(**SIZES, types=2), DecoderConfig(**SIZES)
T5 = EncoderDecoderConfig(**SIZES)
ROWS, WIDTH, TARGET = 5, 10, 4
LENGTHS = np.array([10, 6, 7, 8, 9])
PLACE, RNG = np.arange(WIDTH), np.random.default_rng(0)
REAL = LENGTHS[:, None] > PLACE
TOKENS = np.where(REAL, RNG.integers(5, 40, (ROWS, WIDTH)), 0).astype(np.int32)
VALID = np.arange(ROWS) != 3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def made(config, model, about):
    """(objective, parameters with noise)"""
    with jax.enable_x64(True):
        objective = config.build(model, about, (WIDTH, TARGET), WIDE)
        params = jax.jit(lambda key: axes.unbox(objective.init(key, example_batch(objective, 2))))(jax.random.key(0))
        rng = np.random.default_rng(1)
        return objective, jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape), params)


@functools.partial(jax.jit, static_argnums=0)
def scored(objective, params, batch):
    """(observation, outcome, logits, metrics of rows)"""
    keys = objective.row_keys(random.stream(0, random.OBSERVE, 0), batch)
    observation = objective.observe_rows(keys, batch, 0)
    logits = objective.outputs(params, {}, observation.inputs, ("logits",))["logits"]
    outcome = objective.encode(params, {}, observation, keys, 0, train=False)
    return observation, outcome, logits, objective.judged(logits, observation)


def log_softmax(logits, axis=-1):
    logits = logits - logits.max(axis, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis, keepdims=True))


def test_tags_are_scored_where_words_begin():
    tags = np.where(REAL & (RNG.random((ROWS, WIDTH)) < 0.6), RNG.integers(0, 3, (ROWS, WIDTH)), -1).astype(np.int32)
    objective, params = made(TokenClassificationConfig(), BERT, Labelled(VOCABULARY, "tags", ("a", "b", "c")))
    observation, outcome, logits, judged = scored(objective, params, {"tokens": TOKENS, "tags": tags, "valid": VALID})
    counts = (tags >= 0) & VALID[:, None]
    assert np.array_equal(observation.weights["nll"], counts) and counts.any()
    nll = -np.take_along_axis(log_softmax(np.asarray(logits)), np.maximum(tags, 0)[..., None], 2)[..., 0]
    assert abs(outcome.totals["nll"] - nll[counts].sum()) < 1e-10
    hits = (np.asarray(logits).argmax(-1) == tags) & counts
    metric = outcome.metrics["accuracy"]
    assert (metric.total, metric.weight) == (hits.sum(), counts.sum())
    assert np.array_equal(judged["accuracy"][0], hits.sum(1)) and np.array_equal(judged["accuracy"][1], counts.sum(1))


CONTEXT = REAL & (PLACE >= 4)
SPAN = np.int32([[4, 6], [5, 5], [-1, -1], [4, 5], [6, 8]])
QUESTION = {"tokens": TOKENS, "types": CONTEXT.astype(np.int32), "context": CONTEXT, "span": SPAN, "valid": VALID}
ASKED = Labelled(VOCABULARY, "span", (), True)


def test_answers_are_begun_and_ended():
    """The mean of two losses among the real tokens; an answer that was cut off is no target, but a miss."""
    objective, params = made(QuestionAnsweringConfig(longest=3), BERT, ASKED)
    observation, outcome, logits, judged = scored(objective, params, QUESTION)
    counts = VALID & (SPAN[:, 0] >= 0)
    assert np.array_equal(observation.weights["nll"], counts)
    found = log_softmax(np.where(REAL[..., None], logits, -np.inf), 1)
    nll = -np.stack([found[np.arange(ROWS), SPAN[:, end], end] for end in (0, 1)], 1).mean(1)
    assert abs(outcome.totals["nll"] - nll[counts].sum()) < 1e-10
    spans = np.asarray(likeliest(logits, CONTEXT, 3))
    exact, f1 = [], []
    for span, answer in zip(spans, SPAN, strict=True):
        ours, theirs = (set(range(first, last + 1)) if first >= 0 else set() for first, last in (span, answer))
        exact.append(float(ours == theirs))
        f1.append(2 * len(ours & theirs) / (len(ours) + len(theirs)))
    for name, wanted in (("exact", exact), ("f1", f1)):
        assert np.abs(judged[name][0] - np.where(counts, wanted, 0)).max() < 1e-6
        assert outcome.metrics[name].weight == VALID.sum() == judged[name][1].sum()


def test_the_right_answer_is_exact():
    """Scores that say where each answer is: every metric is whole, but for the one that was cut off."""
    objective, params = made(QuestionAnsweringConfig(longest=3), BERT, ASKED)
    observation = scored(objective, params, QUESTION)[0]
    logits = np.stack([PLACE == SPAN[:, :1], PLACE == SPAN[:, 1:]], 2).astype(np.float64)
    judged = objective.judged(logits, observation)
    for name in ("exact", "f1"):
        assert np.array_equal(judged[name][0], [1, 1, 0, 0, 1])


def test_the_likeliest_span_by_search():
    logits = RNG.standard_normal((ROWS, WIDTH, 2))
    found = np.asarray(likeliest(logits, CONTEXT, 3))
    for row in range(ROWS):
        spans = [
            (i, j) for i in range(WIDTH) for j in range(i, min(i + 3, WIDTH)) if CONTEXT[row, i] and CONTEXT[row, j]
        ]
        best = max(spans, key=lambda span: logits[row, span[0], 0] + logits[row, span[1], 1])
        assert tuple(found[row]) == best


def test_padding_changes_no_answer():
    objective, params = made(QuestionAnsweringConfig(), BERT, ASKED)
    inputs = {name: QUESTION[name] for name in ("tokens", "types")}
    wider = {name: np.pad(values, ((0, 0), (0, 6))) for name, values in inputs.items()}
    outputs = jax.jit(lambda inputs: objective.outputs(params, {}, inputs, ("logits",))["logits"])
    found, wide = outputs(inputs), outputs(wider)
    assert np.abs(wide[:, :WIDTH] - found)[REAL].max() < 1e-12
    # Padding has no share in where an answer begins.
    assert np.exp(log_softmax(np.asarray(wide), 1))[:, WIDTH:].sum() == 0


SIZES_OF_TARGETS = np.array([4, 2, 3, 1, 4])
WRITTEN = np.arange(TARGET) < SIZES_OF_TARGETS[:, None]
TARGETS = np.where(WRITTEN, RNG.integers(5, 40, (ROWS, TARGET)), 0).astype(np.int32)
SAID = {
    "tokens": TOKENS,
    "length": LENGTHS.astype(np.int32),
    "target": TARGETS,
    "target_length": SIZES_OF_TARGETS.astype(np.int32),
    "valid": VALID,
}


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("model", [T5, GPT])
def test_a_text_is_written_from_its_source(model):
    objective, params = made(TextToTextConfig(), model, Labelled(VOCABULARY, "text"))
    observation, outcome, logits, judged = scored(objective, params, SAID)
    assert np.array_equal(observation.inputs["tokens"], np.pad(TARGETS[:, :-1], ((0, 0), (1, 0))))
    counts = WRITTEN & VALID[:, None]
    nll = -np.take_along_axis(log_softmax(np.asarray(logits)), TARGETS[..., None], 2)[..., 0]
    assert abs(outcome.totals["nll"] - nll[counts].sum()) < 1e-9
    hits = np.asarray(logits).argmax(-1) == TARGETS
    for name, wanted in (("accuracy", (hits & counts).sum(1)), ("exact", VALID & (hits | ~WRITTEN).all(1))):
        assert np.array_equal(judged[name][0], wanted)
        assert outcome.metrics[name].total == wanted.sum()
    assert outcome.metrics["exact"].weight == VALID.sum()


def test_a_target_is_exact_where_all_of_it_is():
    objective = TextToTextConfig().build(T5, Labelled(VOCABULARY, "text"), (WIDTH, TARGET), WIDE)
    keys = objective.row_keys(random.stream(0, random.OBSERVE, 0), SAID)
    observation = objective.observe_rows(keys, SAID, 0)
    logits = np.eye(40)[TARGETS]
    logits[1, 1], logits[2, 3] = np.eye(40)[[2, 2]]  # a token of a target; what stands behind one
    assert np.array_equal(objective.judged(logits, observation)["exact"][0], [1, 0, 1, 0, 1])


def test_the_decoder_begins_as_its_pretraining_did():
    objective = TextToTextConfig(begin="eos").build(T5, Labelled(VOCABULARY, "text"), (WIDTH, TARGET), WIDE)
    assert objective.begin == 1 and objective.reads.end == ("eos",)
    with pytest.raises(ConfigError, match="no special token 'bos'"):
        TextToTextConfig(begin="bos").build(T5, Labelled(VOCABULARY, "text"), (WIDTH, TARGET), WIDE)
    with pytest.raises(ConfigError, match="needs an encoder-decoder"):
        TextToTextConfig().build(BERT, Labelled(VOCABULARY, "text"), (WIDTH, TARGET), WIDE)
