"""Prompt tuning: the base with embeddings made before, rows of the restored vocabulary, several tasks in a batch, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapt.subjects import (
    BERT,
    GPT2,
    LENGTH,
    LLAMA,
    ROWS,
    T5,
    TOKENS,
    VOCABULARY,
    WIDTH,
    base_of,
    built,
    initial,
    logits,
    noisy,
    trained,
)

from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.prompt import Prompt, PromptConfig
from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.experts import ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.training import state as states

P = 3
CONFIG = PromptConfig(length=P)
close = lambda a, b, tolerance=1e-11: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def embedded(params, inner, tokens=TOKENS):
    """The prompt's rows and the tokens' [B, P + T, D], before positions."""
    rows = jnp.broadcast_to(params["prompt"], (ROWS, P, WIDTH))
    return jnp.concatenate([rows, params["token"]["table"][jnp.asarray(tokens)]], 1)


def applied(inner, params):
    base = base_of(params, inner)
    return lambda method, *args: inner.model.apply({"params": base}, *args, method=method)


@pytest.mark.parametrize("config", [GPT2, pytest.param(LLAMA, marks=pytest.mark.slow)], ids=["gpt2", "llama"])
def test_a_decoder_with_embeddings_made_before(config):
    """Rows of the prompt at the first positions, tokens behind them; logits of the tokens alone."""
    inner = built(config)
    params = noisy(initial(CONFIG.wrap(inner)))
    run, x = applied(inner, params), embedded(params, inner)
    if config.positions == "learned":
        x = x + params["position"]["table"][: P + LENGTH]
    wanted = run("head", run("blocks", x))[:, P:, : VOCABULARY.size]
    found = logits(CONFIG.wrap(inner), params)
    close(found, wanted, 1e-12)
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), TOKENS.shape)
    close(logits(CONFIG.wrap(inner), params, tokens=TOKENS, positions=places), wanted, 1e-12)
    assert found.shape[1] == LENGTH and np.abs(found - logits(inner, base_of(params, inner))).max() > 1e-3


@pytest.mark.slow
@pytest.mark.rotated
def test_an_encoder_with_embeddings_made_before():
    """The prompt is real where padding is not, has type 0, and goes through the norm of embeddings."""
    inner = built(BERT)
    params = noisy(initial(CONFIG.wrap(inner)))
    run, x = applied(inner, params), embedded(params, inner)
    x = x + params["position"]["table"][: P + LENGTH] + params["type"]["table"][0]
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + BERT.norm_epsilon)
    x = x * params["embedding_norm"]["scale"] + params["embedding_norm"]["bias"]
    segments = jnp.pad(jnp.asarray(TOKENS != 0, jnp.int32), [(0, 0), (P, 0)], constant_values=1)
    wanted = run("head", run("blocks", x, None, None, segments))[:, P:, : VOCABULARY.size]
    close(logits(CONFIG.wrap(inner), params)[TOKENS != 0], np.asarray(wanted)[TOKENS != 0], 1e-12)


@pytest.mark.slow
@pytest.mark.rotated
def test_an_encoder_decoder_reads_it_in_the_encoder_only():
    inner = built(T5)
    params = noisy(initial(CONFIG.wrap(inner)))
    run = applied(inner, params)
    segments = jnp.pad(jnp.asarray(TOKENS != 0, jnp.int32), [(0, 0), (P, 0)], constant_values=1)
    memory = run("blocks", embedded(params, inner), None, segments)
    targets = jnp.asarray(TOKENS[:, :5])
    x = run("target_blocks", run("embed_targets", targets), memory, None, segments)
    wanted = run("logits", run("hidden", x))[..., : VOCABULARY.size]
    close(logits(CONFIG.wrap(inner), params, source=TOKENS, tokens=targets), wanted, 1e-12)


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("case", ["encoder-decoder", "decoder"])
def test_decoding_behind_a_source(case):
    """Token by token with a cache = all at once, with the prompt before a source that has padding."""
    model = T5 if case == "encoder-decoder" else replace(GPT2, max_length=32)
    inner = built(model, SpanCorruptionConfig())
    objective = CONFIG.wrap(inner)
    params = noisy(initial(objective))
    source = {"source": jnp.asarray(TOKENS), "source_length": jnp.asarray([7, 5, 7])}
    tokens = jnp.asarray(TOKENS[:, :4])
    whole = logits(objective, params, **source, tokens=tokens)
    cache = objective.cache(params, {}, ROWS, 4, source)
    for place in range(4):
        found, cache = objective.decode(params, {}, tokens[:, place : place + 1], cache)
        close(found[:, 0], whole[:, place])
    features = objective.outputs(params, {}, source, ("features",))["features"]
    assert features.shape == (ROWS, WIDTH) and np.isfinite(features).all()


def test_a_prefix_and_the_prompt_before_it_see_each_other():
    inner = built(GPT2, PrefixLmConfig())
    params = noisy(initial(CONFIG.wrap(inner)))
    run, x = applied(inner, params), embedded(params, inner) + params["position"]["table"][: P + LENGTH]
    seen = jnp.broadcast_to(jnp.arange(P + LENGTH) < P + 4, (ROWS, P + LENGTH))
    wanted = run("head", run("blocks", x, None, None, None, seen))[:, P:, : VOCABULARY.size]
    found = logits(CONFIG.wrap(inner), params, tokens=TOKENS, prefix=np.full(ROWS, 4, np.int32))
    close(found, wanted, 1e-12)


@pytest.mark.slow
def test_experts_route_the_prompt_with_the_tokens():
    """Its places are real, those of padding are not: they are given none of an expert's."""
    inner = built(replace(GPT2, experts=ExpertsConfig(count=4, capacity=0.6)))
    params = noisy(initial(CONFIG.wrap(inner)))
    run, x = applied(inner, params), embedded(params, inner) + params["position"]["table"][: P + LENGTH]
    real = jnp.pad(jnp.asarray(TOKENS != 0), [(0, 0), (P, 0)], constant_values=True)
    routed = lambda real: run("head", run("routed", x, None, None, None, None, real)[0])[:, P:, : VOCABULARY.size]
    found = logits(CONFIG.wrap(inner), params)
    close(found, routed(real), 1e-12)
    assert np.abs(found - routed(real.at[:, :P].set(False))).max() > 1e-3


@pytest.mark.slow
@pytest.mark.rotated
def test_a_prefix_that_is_read_both_ways():
    """With the prefix objective the prompt belongs to what is read as a whole."""
    inner = built(GPT2, PrefixLmConfig())
    objective = CONFIG.wrap(inner)
    params = noisy(initial(objective))
    tokens, read = jnp.asarray(TOKENS), jnp.full(ROWS, 4, jnp.int32)
    wanted = logits(objective, params, tokens=tokens, prefix=read)
    cache = objective.cache(params, {}, ROWS, LENGTH)
    found, cache = objective.decode(params, {}, tokens[:, :4], cache)
    close(found, wanted[:, :4])
    close(objective.decode(params, {}, tokens[:, 4:], cache)[0], wanted[:, 4:])


def test_rows_start_as_those_of_the_restored_vocabulary():
    """Drawn without special ids, after init_from; those of an earlier run with a prompt stay; "random" is none of them."""
    objective = PromptConfig(length=5, among=12).wrap(built(GPT2))
    batch, key = states.example_batch(objective, 2), jax.random.key(0)
    params = jax.jit(lambda key: objective.init(key, batch))(key)
    box = params["token"]["table"]
    table = np.arange(box.value.size, dtype=np.float64).reshape(box.value.shape)
    params["token"]["table"] = box.replace_boxed(jnp.asarray(table))
    rows = objective.start(key, params, batch)[0]["prompt"]
    ids = np.asarray(rows.value[:, 0]) / WIDTH
    assert len(set(ids)) == 5 and set(ids) <= set(range(6, 12))
    np.testing.assert_array_equal(rows.value, table[ids.astype(int)])
    assert rows.names == ("prompt", "embed")
    again = objective.start(key, params | {"prompt": rows.replace_boxed(rows.value + 0.5)}, batch)[0]["prompt"]
    np.testing.assert_array_equal(again.value, rows.value + 0.5)
    other = PromptConfig(length=5, initial="random").wrap(built(GPT2)).start(key, params, batch)[0]["prompt"].value
    assert 0.1 < np.std(other) < 0.5
    assert trained(objective) == (5 * WIDTH, {"prompt"})


@pytest.mark.slow
@pytest.mark.rotated
def test_several_tasks_in_a_batch():
    """Each row has the prompt of its task, in losses and in outputs, read from a field of the batch."""
    inner = built(GPT2)
    several, one = Prompt(inner, replace(CONFIG, tasks=2)), Prompt(inner, CONFIG)
    params = noisy(initial(several))
    assert params["prompt"].shape == (2, P, WIDTH) and axes.role(("prompt", "prompt", "embed")) == "embedding"
    task = np.array([1, 0, 1], np.int32)
    batch = {"tokens": np.pad(TOKENS, [(0, 0), (1, 0)], constant_values=3), "task": task, "valid": np.ones(ROWS, bool)}
    spec = several.batch_spec(ROWS)
    assert {name: leaf.shape for name, leaf in spec.items()} == {name: array.shape for name, array in batch.items()}
    keys = several.row_keys(jax.random.key(0), batch)
    losses = several.encode(params, {}, several.observe_rows(keys, batch, 0), keys, 0, train=False).per_row["nll"]
    found = logits(several, params, tokens=TOKENS, task=task)
    for row, number in enumerate(task):
        alone = params | {"prompt": params["prompt"][number]}
        close(found[row], logits(one, alone)[row])
        seen = one.observe_rows(keys, {name: batch[name] for name in ("tokens", "valid")}, 0)
        close(losses[row], one.encode(alone, {}, seen, keys, 0, train=False).per_row["nll"][row])
    cache = several.cache(params, {}, ROWS, LENGTH, {"task": jnp.asarray(task)})
    close(several.decode(params, {}, jnp.asarray(TOKENS), cache)[0], found)


@pytest.mark.slow
@pytest.mark.rotated
def test_with_lora():
    objective = CONFIG.wrap(LoraConfig(rank=2).wrap(built(GPT2)))
    assert {path.split("/")[-1] for path in trained(objective)[1]} == {"prompt", "lora_a", "lora_b"}


@pytest.mark.parametrize(
    ("make", "what", "where"),
    [
        (lambda: built(GPT2, length=14), "no positions for the prompt", "config.data.length"),
        (lambda: built(replace(GPT2, max_length=0)), "no positions for the prompt", "config.data.length"),
        (lambda: built(GPT2, segmented=True), "cannot stand before several documents", "config.data.packing"),
        (
            lambda: ClassificationConfig().build(
                VitConfig(width=8, depth=1, heads=2, patch=4),
                Images(8, 3, ("a", "b"), (0.5,) * 3, (0.3,) * 3),
                Precision(),
            ),
            "before the words",
            "config.adapt.name",
        ),
    ],
    ids=["table", "table of the data", "packed", "pictures"],
)
def test_what_has_no_room_for_a_prompt_is_refused(make, what, where):
    with pytest.raises(ConfigError, match=what) as caught:
        CONFIG.wrap(make())
    assert caught.value.where == where and caught.value.do


def test_text_that_outgrows_the_table_behind_the_prompt_is_refused():
    objective = CONFIG.wrap(built(GPT2))
    with pytest.raises(ConfigError, match="no positions for the prompt") as caught:
        objective.cache({}, {}, 1, 14)
    assert "at most 13 tokens" in caught.value.do


def test_several_prompts_for_a_mixture_are_refused():
    mixture = Mixture((("a", built(GPT2), 0.5), ("b", built(GPT2), 0.5)))
    with pytest.raises(ConfigError, match="a row would have two tasks"):
        Prompt(mixture, replace(CONFIG, tasks=2))
    assert "prompt" in trained(CONFIG.wrap(mixture))[1]
