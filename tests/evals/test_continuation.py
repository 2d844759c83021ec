"""Generation with a cache gives the tokens that recomputing the whole row for each would give; through wrappers too."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.prefix import PrefixConfig
from pretrainx.adapt.prompt import PromptConfig
from pretrainx.adapt.wrapper import Wrapper
from pretrainx.core import axes, random
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evals.continuation import generate
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states

GPT2 = DecoderConfig(width=16, depth=2, heads=4, vocab_multiple=16, initial_std=0.3, max_length=24)
LLAMA = replace(
    GPT2, positions="rotary", norm="rms", activation="silu", gated=True, bias=False, kv_heads=2, head_dim=6, tied=False
)
MODERN = replace(LLAMA, activation="relu_squared", gated=False, qk_norm=True, window=5, logit_cap=3.0, tied=True)
VOCABULARY = Vocabulary(11, (("pad", 0), ("eos", 1)))
PROMPTS = [np.array(ids, np.int32) for ids in ([4, 5, 6], [7], [2, 3, 4, 5, 6, 7, 8])]
MODELS = {"gpt2": GPT2, "llama": LLAMA, "modern": MODERN}
WRAPPERS = {
    "plain": lambda objective: objective,
    "pass-through": Wrapper,
    "lora": LoraConfig(rank=4).wrap,
    "prompt": PromptConfig(length=3).wrap,
    "prefix": PrefixConfig(length=3, std=1.0).wrap,
}
TEMPERATURES = [0.0, 0.7, 1.5]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(config, wrap, kind=AutoregressiveConfig()):
    objective = wrap(kind.build(config, VOCABULARY, 12, Precision("float64", "float64")))
    params = axes.unbox(jax.jit(objective.init)(jax.random.key(0), states.example_batch(objective, 2)))
    rng = np.random.default_rng(1)
    return objective, jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params)


def recomputed(objective, params, prompt, place, count, temperature, end, seed):
    """One row, every token from the logits of all before it."""
    run = jax.jit(lambda tokens: objective.outputs(params, {}, {"tokens": tokens}, ("logits",))["logits"])
    key, ids = random.stream(seed, random.EVALUATE, 2**31 - 1), list(prompt)
    for position in range(len(prompt), len(prompt) + count):
        noise = jax.random.gumbel(jax.random.fold_in(key, position), (len(PROMPTS), VOCABULARY.size))[place]
        padded = np.zeros((1, 20), np.int32)
        padded[0, : len(ids)] = ids
        token = int(jnp.argmax(run(padded)[0, len(ids) - 1] + temperature * noise))
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


def combinations():
    """All models with all wrappers; of those that stand before the text one with each is plain, the others are for CI."""
    for model in MODELS:
        for wrapper in WRAPPERS:
            slow = wrapper in ("prompt", "prefix") and (model, wrapper) not in (
                ("llama", "prompt"),
                ("modern", "prefix"),
            )
            yield pytest.param(model, wrapper, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("model", "wrapper"), list(combinations()))
def test_cached_is_recomputed(model, wrapper):
    config, wrap = MODELS[model], WRAPPERS[wrapper]
    objective, params = build(config, wrap)
    rules = Rules(make_mesh(MeshConfig(), jax.devices()[:1]))
    found = generate(objective, rules, params, {}, PROMPTS, 9, TEMPERATURES, end=1, seed=3)
    for place, (prompt, temperature, ids) in enumerate(zip(PROMPTS, TEMPERATURES, found, strict=True)):
        assert ids.tolist() == recomputed(objective, params, prompt, place, 9, temperature, 1, 3)
    assert max(map(len, found)) > 3, "not all rows end at once: something was generated"


def test_generation_ends():
    """At the end id, which is not given back; other rows go on."""
    objective, params = build(LLAMA, lambda o: o)
    rules = Rules(make_mesh(MeshConfig(), jax.devices()[:1]))
    free = generate(objective, rules, params, {}, PROMPTS, 9, TEMPERATURES, end=1, seed=3)
    end = int(free[0][0])  # what the first row says first
    found = generate(objective, rules, params, {}, PROMPTS, 9, TEMPERATURES, end=end, seed=3)
    assert found[0].tolist() == [] and any(len(ids) for ids in found[1:])
    assert all(end not in ids for ids in found)


def test_a_prefix_lm_reads_the_whole_prompt_both_ways():
    """The tokens that its logits give one by one with the prompt as prefix, whatever prompts stand beside it."""
    objective, params = build(LLAMA, lambda o: o, PrefixLmConfig())
    rules = Rules(make_mesh(MeshConfig(), jax.devices()[:1]))
    run = jax.jit(lambda inputs: objective.outputs(params, {}, inputs, ("logits",))["logits"])
    found = generate(objective, rules, params, {}, PROMPTS, 5, [0.0] * 3, end=1, seed=3)
    for prompt, ids in zip(PROMPTS, found, strict=True):
        row, prefix = np.zeros((1, 12), np.int32), np.array([len(prompt)], np.int32)
        row[0, : len(prompt)] = prompt
        for place in range(len(prompt), len(prompt) + len(ids)):
            row[0, place] = run({"tokens": row, "prefix": prefix})[0, place - 1].argmax()
        assert ids.tolist() == row[0, len(prompt) : len(prompt) + len(ids)].tolist()
    assert any(len(ids) == 5 for ids in found)
