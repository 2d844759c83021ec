"""Parameters and FLOPs per token are the published integers: those of recipes through their own configuration files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.cli.config_file import load
from pretrainx.core import paths
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.experts import Experts, ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.models.sizes import (
    active_parameters,
    decoder_counts,
    decoder_parameters,
    encoder_counts,
    encoder_decoder_counts,
    encoder_decoder_flops_per_row,
    encoder_decoder_parameters,
    encoder_flops_per_row,
    encoder_parameters,
    matmul_weights,
    prefixed_decoder_flops_per_row,
    visible_keys,
)
from pretrainx.models.sizes_conventions import decoder_flops_per_token
from pretrainx.runs.recipe import parse

ROOT = Path(__file__).parents[2]
LLAMA = dict(positions="rotary", norm="rms", activation="silu", gated=True, bias=False, tied=False)


def gpt2(width, depth, heads, **extra):
    return DecoderConfig(width=width, depth=depth, heads=heads, **extra), 50257, 1024


def llama(width, depth, heads, shared, hidden, vocab_size, length, **extra):
    return DecoderConfig(width, depth, heads, kv_heads=shared, mlp_width=hidden, **LLAMA, **extra), vocab_size, length


PARAMETERS = {
    "GPT-2": (gpt2(768, 12, 12), 124_439_808),
    "GPT-2 medium": (gpt2(1024, 24, 16), 354_823_168),
    "GPT-2 large": (gpt2(1280, 36, 20), 774_030_080),
    "GPT-2 XL": (gpt2(1600, 48, 25), 1_557_611_200),
    # Its norms have no biases either: as many numbers as "rms" has.
    "nanoGPT 124M, no biases": (gpt2(768, 12, 12, bias=False, norm="rms"), 124_337_664),
    "LLaMA 2 7B": (llama(4096, 32, 32, 32, 11008, 32000, 4096), 6_738_415_616),
    "LLaMA 2 13B": (llama(5120, 40, 40, 40, 13824, 32000, 4096), 13_015_864_320),
    "LLaMA 2 70B": (llama(8192, 80, 64, 8, 28672, 32000, 4096), 68_976_648_192),
    "LLaMA 3 8B": (llama(4096, 32, 32, 8, 14336, 128256, 8192), 8_030_261_248),
    "LLaMA 3 70B": (llama(8192, 80, 64, 8, 28672, 128256, 8192), 70_553_706_496),
    "LLaMA 3.1 405B": (llama(16384, 126, 128, 8, 53248, 128256, 8192), 405_853_388_800),
    "TinyLlama": (llama(2048, 22, 32, 4, 5632, 32000, 2048), 1_100_048_384),
    "Mixtral 8x7B": (llama(4096, 32, 32, 8, 14336, 32000, 8192, experts=ExpertsConfig(8, 2)), 46_702_792_704),
    "Mixtral 8x22B": (llama(6144, 56, 48, 8, 16384, 32768, 65536, experts=ExpertsConfig(8, 2)), 140_630_071_296),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    sizes, wanted = PARAMETERS[name]
    assert decoder_parameters(*sizes) == wanted


PYTHIA = {  # width, depth, rows of the vocabulary; total, "non-embedding" (model cards)
    "70m": ((512, 6, 50304), 70_426_624, 18_915_328),
    "160m": ((768, 12, 50304), 162_322_944, 85_056_000),
    "410m": ((1024, 24, 50304), 405_334_016, 302_311_424),
    "1b": ((2048, 16, 50304), 1_011_781_632, 805_736_448),
    "1.4b": ((2048, 24, 50304), 1_414_647_808, 1_208_602_624),
    "2.8b": ((2560, 32, 50304), 2_775_208_960, 2_517_652_480),
    "6.9b": ((4096, 32, 50432), 6_857_302_016, 6_444_163_072),
    "12b": ((5120, 36, 50688), 11_846_072_320, 11_327_027_200),
}


@pytest.mark.parametrize("name", PYTHIA)
def test_parameters_of_pythia(name):
    (width, depth, rows), total, others = PYTHIA[name]
    config = DecoderConfig(width, depth, 8, positions="rotary", tied=False)
    counts = decoder_counts(config, rows, 2048)
    assert counts.total == total and counts.named()["without_vocabulary"] == others
    assert counts.named()["with_head"] == total - rows * width
    assert counts.hidden == 12 * depth * width**2 and counts.idle == 0


def test_parameters_by_what_they_do():
    """A tied matrix is the head; what is looked up multiplies nothing; experts that are not chosen are idle."""
    gpt = decoder_counts(*PARAMETERS["GPT-2"][0])
    assert gpt.named() == {
        "total": 124_439_808,
        "hidden": 84_934_656,
        "active": 124_439_808,
        "with_head": 124_439_808 - 1024 * 768,
        "without_vocabulary": 124_439_808 - (1024 + 50257) * 768,
    }
    mixtral = decoder_counts(*PARAMETERS["Mixtral 8x7B"][0]).named()
    assert mixtral["active"] == 12_879_925_248 and mixtral["total"] == 46_702_792_704
    bert = encoder_counts(*READERS["BERT base"][:3])
    assert bert.looked_up == (512 + 2) * 768 and bert.head == 30522 * 769
    bare = encoder_counts(*READERS["no head, sinusoids"][:3])
    assert bare.looked_up == 99 * 48 and bare.head == 0 and "with_head" not in bare.named()
    t5, bart = (encoder_decoder_counts(*READERS[name][:3]) for name in ("T5 base", "BART base"))
    assert t5.hidden == 12 * (4 + 2 * 4) * 768**2 + 12 * (8 + 2 * 4) * 768**2 and t5.looked_up == 0
    assert bart.looked_up == 2 * 1026 * 768 and bart.head == 50265 * 768


@pytest.mark.parametrize(
    "config, wanted",
    [
        ("gpt2_124m.py", 124_439_808),
        ("gpt2_124m.py:medium", 354_823_168),
        ("gpt2_124m.py:large", 774_030_080),
        ("gpt2_124m.py:xl", 1_557_611_200),
        ("llama_1b.py", 1_100_048_384),
        ("llama_8b.py", 8_030_261_248),
        ("llama_8b.py:70b", 70_553_706_496),
        ("llama_8b.py:405b", 405_853_388_800),
        ("gpt2_124m.py:6.7b", 6_658_404_352),
        ("mixtral_8x7b.py", 46_702_792_704),
    ],
)
def test_recipes_have_the_published_sizes(config, wanted):
    recipe = parse(load(str(ROOT / "configs/lm" / config)))
    assert decoder_parameters(recipe.model, recipe.data.vocab_size, recipe.data.length) == wanted


@pytest.mark.parametrize(
    "config, rows, wanted",
    [
        ("mlm/bert_base.py", 30522, 110_106_428),
        ("mlm/bert_base.py:large", 30522, 336_226_108),
        ("mlm/roberta_base.py", 50265, 124_697_433),
        ("seq2seq/t5_small.py", 32128, 60_506_624),
        ("seq2seq/t5_small.py:base", 32128, 222_903_552),
        ("seq2seq/t5_small.py:11b", 32128, 11_307_321_344),
        ("seq2seq/t5_base_v1_1.py", 32128, 247_577_856),
        ("seq2seq/bart_base.py", 50265, 139_420_416),
        ("seq2seq/bart_base.py:large", 50265, 406_291_456),
    ],
)
def test_recipes_of_encoders_have_the_published_sizes(config, rows, wanted):
    """rows: of the published table, where sentinels and padding are counted."""
    recipe = parse(load(str(ROOT / "configs" / config)))
    count = encoder_parameters if isinstance(recipe.model, EncoderConfig) else encoder_decoder_parameters
    assert count(recipe.model, rows, recipe.model.max_length or recipe.data.length) == wanted


def test_active_parameters_of_a_mixture_of_experts():
    """Those that a token goes through are counted in FLOPs; without experts they are all."""
    sizes = PARAMETERS["Mixtral 8x7B"][0]
    assert active_parameters(*sizes) == 12_879_925_248
    assert active_parameters(*PARAMETERS["LLaMA 3 8B"][0]) == 8_030_261_248
    assert decoder_flops_per_token(*sizes, "6n") == 6 * 12_879_925_248
    norms_and_table = 4096 * (2 * 32 + 1) + 32000 * 4096
    assert decoder_flops_per_token(*sizes, "6n_products") == 6 * (12_879_925_248 - norms_and_table)


@pytest.mark.parametrize("bias, gated", [(True, False), (False, True)])
def test_leaves_of_a_mixture_of_experts(bias, gated):
    config = DecoderConfig(
        24, 3, 4, mlp_width=40, bias=bias, gated=gated, experts=ExpertsConfig(6, 3), vocab_multiple=1
    )
    shapes = jax.eval_shape(config.build(99, 30, Precision()).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == decoder_parameters(config, 99, 30)


@pytest.mark.slow
def test_flops_of_experts_are_those_of_the_compiled_layer():
    """Where there are as many places as choices. With a capacity c the places compute c times as much."""
    flops = []
    for capacity in (1.0, 1.5):
        experts = ExpertsConfig(4, 2, capacity=capacity)
        config = DecoderConfig(192, heads=4, mlp_width=512, gated=True, activation="relu", experts=experts)
        layer = Experts(config, config.spread(1), Precision())
        x = jax.ShapeDtypeStruct((4, 128, 192), jnp.float32)
        params = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
        loss = lambda params, x, layer=layer: layer.apply({"params": params}, x)[0].sum()
        flops.append(jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().cost_analysis()["flops"])
    mlps = 6 * 4 * 128 * (matmul_weights(config) - 4 * 192 * 192 - 4 * 192)
    router = 6 * 4 * 128 * 4 * 192
    np.testing.assert_allclose(flops, [mlps + router, 1.5 * mlps + router], rtol=0.02)


@pytest.mark.parametrize("length, window", [(7, 0), (7, 3), (7, 7), (7, 20), (1, 1)])
def test_visible_keys(length, window):
    seen = [min(t + 1, window or length) for t in range(length)]
    assert visible_keys(length, window) == pytest.approx(sum(seen) / length)


BERT = dict(width=768, depth=12, heads=12, types=2)
LARGE = dict(width=1024, depth=24, heads=16, types=2)
T5 = dict(positions="relative", norm_first=True, norm="rms", activation="relu", bias=False, embedding_norm=False)
READERS = {  # published counts; None: only compared with the leaves
    "BERT base": (EncoderConfig(**BERT), 30522, 512, 109_514_298),
    "BERT base with pooler": (EncoderConfig(**BERT, pooler=True, head="none"), 30522, 512, 109_482_240),
    "BERT large with pooler": (EncoderConfig(**LARGE, pooler=True, head="none"), 30522, 512, 335_141_888),
    "BERT base, next sentence": (EncoderConfig(**BERT, pooler=True), 30522, 512, 110_106_428),
    "BERT large": (EncoderConfig(**LARGE), 30522, 512, 335_174_458),
    "RoBERTa base": (EncoderConfig(**BERT | dict(types=1), position_offset=2), 50265, 512, 124_697_433),
    "a modern encoder": (
        EncoderConfig(48, 3, 4, 2, norm_first=True, norm="rms", gated=True, bias=False, positions="rotary", tied=False),
        99,
        30,
        None,
    ),
    "no head, sinusoids": (EncoderConfig(48, 3, 4, positions="sinusoidal", head="none"), 99, 30, None),
    "T5 small": (EncoderDecoderConfig(512, 6, 8, mlp_width=2048, **T5), 32128, 512, 60_506_624),
    "T5 base": (EncoderDecoderConfig(768, 12, 12, mlp_width=3072, **T5), 32128, 512, 222_903_552),
    "T5 large": (EncoderDecoderConfig(1024, 24, 16, mlp_width=4096, **T5), 32128, 512, 737_668_096),
    "BART base": (EncoderDecoderConfig(768, 6, 12, position_offset=2), 50265, 1024, 139_420_416),
    "BART large": (EncoderDecoderConfig(1024, 12, 16, position_offset=2), 50265, 1024, 406_291_456),
    "T5 1.1's form": (EncoderDecoderConfig(48, 2, 4, 2, decoder_depth=3, gated=True, tied=False, **T5), 99, 30, None),
}


@pytest.mark.parametrize("name", READERS)
def test_parameters_of_encoders_and_encoder_decoders(name):
    config, vocab_size, length, wanted = READERS[name]
    ids = jnp.zeros((1, 4), jnp.int32)
    if isinstance(config, EncoderConfig):
        count, arguments = encoder_parameters(config, vocab_size, length), (ids,)
        model = config.build(vocab_size, length, Precision())
    else:
        count, arguments = encoder_decoder_parameters(config, vocab_size, length), (ids, ids)
        model = config.build(vocab_size, length, length, Precision())
    if wanted is not None:
        assert count == wanted
    found = 0
    for _, leaf in paths.leaves(jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]):
        # without the padding of vocabulary tables
        rows = leaf.value.shape[leaf.names.index("vocab")] if "vocab" in leaf.names else vocab_size
        found += leaf.value.size * vocab_size // rows
    assert found == count


def test_flops_of_what_reads_a_row_or_a_source():
    """By hand: 6 per weight and token that it meets, 12 per query, key and head dimension."""
    encoder = EncoderConfig(width=8, depth=2, heads=2, mlp_width=16)
    weights = 2 * (4 * 64 + 2 * 128)
    assert encoder_flops_per_row(encoder, 50, 10, 3) == 6 * weights * 10 + 12 * 2 * 8 * 10 * 10 + 6 * 3 * (50 * 8 + 64)
    both = EncoderDecoderConfig(width=8, depth=2, heads=2, mlp_width=16, decoder_depth=1)
    wanted = 6 * weights * 10 + 12 * 2 * 8 * 10 * 10 + 6 * 2 * 64 * 10
    wanted += 6 * 4 * (weights / 2 + 2 * 64 + 50 * 8) + 12 * 8 * 4 * (2.5 + 10)
    assert encoder_decoder_flops_per_row(both, 50, 10, 4) == wanted
    alone = DecoderConfig(width=8, depth=2, heads=2, mlp_width=16)
    reads = [10] * 10 + [10 + place for place in (1, 2, 3, 4)]  # how many keys each token of source and targets sees
    wanted = 6 * weights * 14 + 12 * 2 * 8 * sum(reads) + 6 * 50 * 8 * 4
    assert prefixed_decoder_flops_per_row(alone, 50, 10, 4) == wanted
