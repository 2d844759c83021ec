"""Encoder-decoders: pairs and weights, the loss, outputs, decoding, and what the configs refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.sizes import encoder_decoder_flops_per_row, prefixed_decoder_flops_per_row
from pretrainx.objectives import spans
from pretrainx.objectives.denoising import DenoisingConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig, span_accuracy
from pretrainx.training import state as states

PAD, EOS, BOS, MASK, MODE = range(5)
SPECIALS = (("pad", PAD), ("eos", EOS), ("bos", BOS), ("mask", MASK), ("regular", MODE))
VOCABULARY = Vocabulary(40, SPECIALS, 0, tuple(range(39, 31, -1)))
LENGTH, ROWS = 16, 4
LENGTHS = [99, 9, 2, 0]  # of the rows, cut to what a row holds: full, shorter, as short as spans can be, empty
MODEL = EncoderDecoderConfig(width=8, depth=1, heads=2, vocab_multiple=16, positions="rotary", initial_std=0.3)
CONFIGS = {
    "span_corruption": SpanCorruptionConfig(density=0.3),
    "mode": SpanCorruptionConfig(density=0.3, mode="regular"),
    "denoising": DenoisingConfig(),
    "prefix_lm": PrefixLmConfig(mode="regular"),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(name, model=MODEL, vocabulary=VOCABULARY, length=LENGTH, segmented=False):
    return CONFIGS[name].build(model, vocabulary, length, Precision("float64", "float64"), segmented)


def batch(objective, seed=0, garbage=PAD):
    """Rows of LENGTHS tokens; behind them lies `garbage`."""
    width, rng = objective.reads.width, np.random.default_rng(seed)
    lengths = np.minimum(LENGTHS, width).astype(np.int32)
    real = np.arange(width) < lengths[:, None]
    made = {
        "tokens": np.where(real, rng.integers(5, 32, (ROWS, width)), garbage).astype(np.int32),
        "length": lengths,
        "words": rng.random((ROWS, width)) < 0.6,
        "sentences": rng.random((ROWS, width)) < 0.2,
        "valid": np.ones(ROWS, bool),
    }
    return {name: made[name] for name in objective.batch_spec(ROWS)}


@functools.partial(jax.jit, static_argnums=0)
def observed(objective, rows, seed=1):
    return objective.observe_rows(objective.row_keys(jax.random.key(seed), rows), rows, 0)


@functools.cache
def params(name):
    objective = build(name)
    return axes.unbox(jax.jit(objective.init)(jax.random.key(0), states.example_batch(objective, ROWS)))


@functools.partial(jax.jit, static_argnums=0)
def scored(objective, tree, seen):
    return objective.encode(tree, {}, seen, None, 0, train=False)


@functools.partial(jax.jit, static_argnums=(0, 3))
def outputs(objective, tree, inputs, names):
    return objective.outputs(tree, {}, inputs, names)


@pytest.mark.parametrize("name", CONFIGS)
def test_observations(name):
    """The decoder reads its first token and the targets but for the last; weight is on real targets, none on an empty row."""
    objective = build(name)
    assert objective == build(name) and hash(objective) == hash(build(name))
    seen = jax.tree.map(np.asarray, observed(objective, batch(objective)))
    source, lengths, targets = seen.inputs["source"], seen.inputs["source_length"], seen.targets
    assert (source.shape[1], targets.shape[1]) == objective.widths and source.shape[1] == LENGTH
    begin = EOS if name == "denoising" else PAD
    np.testing.assert_array_equal(
        seen.inputs["tokens"], np.pad(targets, [(0, 0), (1, 0)], constant_values=begin)[:, :-1]
    )
    weights = seen.weights["nll"]
    assert (weights[:3] == (targets[:3] != PAD)).all() and weights[:3].any(1).all() and not weights[3].any()
    np.testing.assert_array_equal(source[:3] != PAD, np.arange(LENGTH) < lengths[:3, None])
    assert (lengths >= 1).all()  # a source of nothing would leave attention without a key
    if name in ("mode", "prefix_lm"):
        assert (source[:, 0] == MODE).all()


def test_span_pairs():
    """A full row leaves no place empty, with and without a mode token; every token of the text is on one of the sides."""
    for name in ("span_corruption", "mode"):
        objective = build(name)
        rows = batch(objective)
        seen = jax.tree.map(np.asarray, observed(objective, rows))
        assert seen.inputs["source_length"][0] == LENGTH and seen.weights["nll"][0].all()
        full = spans.lengths_of(objective.reads.width, 0.3, 3.0)
        assert full.source == LENGTH - (name == "mode") and full.target == seen.targets.shape[1]
        for row in range(3):
            both = np.concatenate([seen.inputs["source"][row], seen.targets[row]])
            assert sorted(both[(both > MODE) & (both < 32)]) == sorted(rows["tokens"][row, : rows["length"][row]])


def test_denoising_pairs():
    """Targets are the text between BOS and EOS; the source has those two in place, and never more tokens than a row."""
    objective = build("denoising")
    rows = batch(objective)
    for seed in range(5):
        seen = jax.tree.map(np.asarray, observed(objective, rows, seed))
        for row, length in enumerate(rows["length"]):
            text = rows["tokens"][row, :length].tolist()
            assert seen.targets[row, : length + 2].tolist() == [BOS, *text, EOS]
            source = seen.inputs["source"][row, : seen.inputs["source_length"][row]].tolist()
            assert source[0] == BOS and source[-1] == EOS
            assert set(source[1:-1]) <= {*text, MASK} and (MASK in source) == (length > 0)


@pytest.mark.parametrize("name", ["span_corruption", "denoising"])
def test_an_end_of_the_text_is_not_doubled(name):
    """Where a document's own end token closes a shorter row, source and targets still end once."""
    objective = build(name)
    rows = batch(objective)
    rows["tokens"][1, 8] = EOS
    seen = jax.tree.map(np.asarray, observed(objective, rows))
    for ids in (seen.inputs["source"][1], seen.targets[1]):
        assert (ids == EOS).sum() == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_an_end_alone_teaches_nothing(name):
    """A document that fills its rows but for its end leaves a row of that."""
    objective = build(name)
    rows = batch(objective)
    rows["length"][1], rows["tokens"][1] = 1, np.where(np.arange(objective.reads.width) == 0, EOS, PAD)
    weights = np.asarray(observed(objective, rows).weights["nll"])
    assert not weights[1].any() and weights[0].any()


def test_a_text_of_one_token_hides_nothing():
    objective = build("span_corruption")
    rows = batch(objective)
    rows["length"][1], rows["tokens"][1] = 1, np.where(np.arange(objective.reads.width) == 0, 20, PAD)
    weights = np.asarray(observed(objective, rows).weights["nll"])
    assert not weights[1].any() and weights[0].any()


@pytest.mark.parametrize("name", ["span_corruption", "denoising", "prefix_lm"])
def test_loss(name):
    """-log p(target) summed where there is weight, from the outputs' logits; accuracy from their maxima."""
    objective = build(name)
    seen = observed(objective, batch(objective))
    outcome = scored(objective, params(name), seen)
    logits = np.asarray(outputs(objective, params(name), seen.inputs, ("logits",))["logits"])
    assert logits.shape == (*seen.targets.shape, VOCABULARY.size)
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    weights, targets = np.asarray(seen.weights["nll"]), np.asarray(seen.targets)
    nll = -np.take_along_axis(log, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(outcome.per_row["nll"], (weights * nll).sum(1), rtol=1e-12)
    np.testing.assert_allclose(outcome.totals["nll"], (weights * nll).sum(), rtol=1e-12)
    hits = (logits.argmax(-1) == targets) & (weights > 0)
    accuracy = outcome.metrics["accuracy"]
    assert (accuracy.total, accuracy.weight) == (hits.sum(), weights.sum())


@pytest.mark.parametrize("name", ["span_corruption", "denoising", "prefix_lm"])
def test_padding_changes_nothing(name):
    """Neither what lies behind a row's text, nor behind its source."""
    objective = build(name)
    losses = [scored(objective, params(name), observed(objective, batch(objective, 0, each))) for each in (PAD, 17)]
    np.testing.assert_array_equal(losses[0].per_row["nll"], losses[1].per_row["nll"])
    seen = observed(objective, batch(objective))
    inputs, place = dict(seen.inputs), np.arange(LENGTH)
    inputs["source"] = jnp.where(place < inputs["source_length"][:, None], inputs["source"], 17)
    other = scored(objective, params(name), seen.replace(inputs=inputs))
    np.testing.assert_allclose(other.per_row["nll"], losses[0].per_row["nll"], rtol=1e-12)


def test_the_source_is_read():
    """And the decoder looks back only: with another target from place t on, the losses before t are the same."""
    name = "span_corruption"
    objective, tree = build(name), params(name)
    seen = jax.tree.map(np.asarray, observed(objective, batch(objective)))
    logits = lambda inputs: np.asarray(outputs(objective, tree, inputs, ("logits",))["logits"])
    base = logits(seen.inputs)
    source, tokens = seen.inputs["source"].copy(), seen.inputs["tokens"].copy()
    source[:, 0] = 20
    tokens[:, 3] = 20
    assert np.abs(logits(seen.inputs | {"source": source}) - base).max() > 1e-3
    later = logits(seen.inputs | {"tokens": tokens})
    np.testing.assert_allclose(later[:, :3], base[:, :3], rtol=1e-9, atol=1e-12)
    assert np.abs(later[:, 3:] - base[:, 3:]).max() > 1e-3


def test_outputs():
    """Features are the mean of the memory over the real source, and need no tokens; lengths are found from the padding."""
    objective, tree = build("denoising"), params("denoising")
    seen = observed(objective, batch(objective))
    made = outputs(objective, tree, seen.inputs, ("features", "hidden"))
    assert set(made) == {"features", "hidden"} and made["hidden"].shape == (ROWS, LENGTH, 8)
    alone = outputs(objective, tree, {"source": seen.inputs["source"]}, ("features",))
    np.testing.assert_allclose(alone["features"], made["features"], rtol=1e-12)
    run = lambda method, *args: objective.model.apply({"params": tree}, *args, method=method)
    source = seen.inputs["source"][1:2, : int(seen.inputs["source_length"][1])]
    memory = jax.jit(lambda: run("blocks", run("embed", source)))()
    np.testing.assert_allclose(made["features"][1], memory[0].mean(0), rtol=1e-9)
    with pytest.raises(ValueError, match="no output 'logit': did you mean 'logits'"):
        objective.outputs(tree, {}, seen.inputs, ("logit",))
    with pytest.raises(ValueError, match="needs the decoder's tokens"):
        objective.outputs(tree, {}, {"source": seen.inputs["source"]}, ("logits",))


def test_decoding():
    """Token by token with a cache, the logits of the whole."""
    objective, tree = build("span_corruption"), params("span_corruption")
    assert objective.decodes
    seen = observed(objective, batch(objective))
    whole = outputs(objective, tree, seen.inputs, ("logits",))["logits"]
    source = {name: seen.inputs[name] for name in ("source", "source_length")}
    tokens = seen.inputs["tokens"]
    cache = jax.jit(lambda: objective.cache(tree, {}, *tokens.shape, source))()
    step, parts = jax.jit(lambda ids, cache: objective.decode(tree, {}, ids, cache)), []
    for ids in (tokens[:, :2], *(tokens[:, t : t + 1] for t in range(2, tokens.shape[1]))):
        logits, cache = step(ids, cache)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="decodes what follows from a source"):
        objective.cache(tree, {}, 1, 4)


def test_span_accuracy():
    """By brute force: spans are what stands between sentinels; neither these nor the end count, nor rows without weight."""
    rng = np.random.default_rng(0)
    objective = build("span_corruption", length=30)
    rows = batch(objective)
    rows["valid"] = np.array([True, True, False, True])
    seen = jax.tree.map(np.asarray, observed(objective, rows))
    real = seen.weights["nll"] > 0
    count = jax.jit(lambda hits: span_accuracy(seen.targets, real, hits, VOCABULARY.sentinels))
    for chance in (0.0, *[0.7, 0.9] * 8, 1.0):
        hits = rng.random(seen.targets.shape) < chance
        whole = total = 0
        for row in (0, 1):
            places = np.flatnonzero(real[row])[:-1]
            starts = [place for place in places if seen.targets[row, place] in VOCABULARY.sentinels]
            for start, end in zip(starts, [*starts[1:], places[-1] + 1], strict=True):
                total += 1
                whole += hits[row, start + 1 : end].all()
        found = count(hits)
        assert total > 3 and (float(found.total), float(found.weight)) == (whole, total)
    assert "span_accuracy" in scored(objective, params("span_corruption"), seen).metrics


def test_denoising_metrics():
    """Counted from the pairs: what the source lacks of the text, and how long the two are; empty rows are left out."""
    objective = build("denoising")
    rows = batch(objective)
    seen = jax.tree.map(np.asarray, observed(objective, rows))
    found = {name: (float(one.total), float(one.weight)) for name, one in objective.measured(seen, None).items()}
    source = seen.inputs["source"]
    left = ((source > MODE) & (source < 32))[:3].sum()
    text = rows["length"].sum()
    assert found == {
        "removed": (text - left, text),
        "source_tokens": (seen.inputs["source_length"][:3].sum(), 3),
        "target_tokens": (text + 6, 3),
    }
    assert left < text


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_are_of_the_shapes_that_are_read(name):
    objective = build(name)
    seen = observed(objective, batch(objective))
    widths = seen.inputs["source"].shape[1], seen.inputs["tokens"].shape[1]
    counted = encoder_decoder_flops_per_row(objective.model.config, VOCABULARY.size, *widths)
    assert objective.flops_per_row() == counted


def test_flops_of_a_decoder_with_a_source():
    objective = build("span_corruption", model=DecoderConfig(width=16, depth=1, heads=2))
    counted = prefixed_decoder_flops_per_row(objective.model.config, VOCABULARY.size, *objective.widths)
    assert objective.flops_per_row() == counted


def refused(where, match, name, **given):
    with pytest.raises(ConfigError, match=match) as caught:
        build(name, **given)
    assert caught.value.where == where


@pytest.mark.parametrize("name", CONFIGS)
def test_refusals(name):
    refused("config.data.packing", "several documents", name, segmented=True)
    refused("config.data.length", "too short", name, length=2)


def test_more_refusals():
    refused("config.model.name", r"needs an encoder-decoder\n", "denoising", model=DecoderConfig())
    refused("config.model.name", "or a decoder", "span_corruption", model=EncoderConfig())
    few = Vocabulary(40, SPECIALS, 0, (39,))
    refused("config.data.sentinels", "fewer sentinels than spans", "span_corruption", vocabulary=few, length=30)
    plain = Vocabulary(40, SPECIALS[:3], 0, VOCABULARY.sentinels)
    refused("config.data.specials", "no special token 'mask'", "denoising", vocabulary=plain)
    refused("config.data.specials", "no special token 'regular'", "mode", vocabulary=plain)
