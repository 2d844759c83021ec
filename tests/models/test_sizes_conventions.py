"""FLOPs per token by every convention are the published figures, to the last digit."""

import pytest

from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.sizes import decoder_counts, decoder_parameters, encoder_parameters, matmul_weights
from pretrainx.models.sizes_conventions import CONVENTIONS, decoder_flops, decoder_flops_per_token, encoder_flops

LLAMA = dict(positions="rotary", norm="rms", gated=True, bias=False, tied=False)
GPT2 = DecoderConfig(768, 12, 12), 50257, 1024
LLAMA2 = DecoderConfig(4096, 32, 32, mlp_width=11008, **LLAMA), 32000, 4096
LLAMA3 = DecoderConfig(4096, 32, 32, 8, mlp_width=14336, **LLAMA), 128256, 8192
FLOPS = {  # of these three
    "6n": (746_638_848, 40_430_493_696, 48_181_567_488),
    "6n_hidden": (509_607_936, 38_856_032_256, 41_875_931_136),
    "kaplan": (566_231_040, 42_077_257_728, 48_318_382_080),
    "6n_products": (741_192_192, 39_642_464_256, 45_027_950_592),
    "palm": (855_166_464, 46_086_512_640, 57_914_449_920),
    "matmul_full": (854_438_400, 46_084_915_200, 57_912_852_480),
    "matmul_causal": (797_870_592, 42_864_476_160, 51_471_187_968),
    "levanter": (855_765_504, 46_122_663_936, 57_988_349_952),
    "deepseek": (622_854_144, 45_097_156_608, 51_539_607_552),
}
ELSEWHERE = {"porian", "hoffmann", "hoffmann_blocks", "olmo", "nanochat", "gemstones"}


@pytest.mark.parametrize("convention", FLOPS)
def test_flops_per_token(convention):
    found = tuple(decoder_flops_per_token(*model, convention) for model in (GPT2, LLAMA2, LLAMA3))
    assert found == FLOPS[convention]


def test_every_convention_is_checked_and_says_what_it_counts():
    assert FLOPS.keys() | ELSEWHERE == CONVENTIONS.keys()
    assert all(each.__doc__ for each in CONVENTIONS.values())
    assert decoder_flops_per_token(*GPT2) == FLOPS["matmul_causal"][0], "what MFU is stated by"
    assert decoder_flops(*GPT2) == {name: decoder_flops_per_token(*GPT2, name) for name in CONVENTIONS}
    with pytest.raises(ValueError, match="unknown convention 'chinchilla'"):
        decoder_flops_per_token(*GPT2, "chinchilla")


def test_chinchilla_70b():
    """Whose N is that of its products. Transformer-XL's relative positions are d^2 weights more in each of 80 layers."""
    shape = DecoderConfig(8192, 80, 64, tied=True, positions="rotary"), 32000, 2048
    relative = 80 * 8192**2
    assert decoder_counts(*shape).hidden + 32000 * 8192 == 64_686_653_440 == 70_055_362_560 - relative
    with_relative_positions = {
        "6n_hidden": 418_759_311_360,
        "kaplan": 426_812_375_040,
        "6n_products": 420_332_175_360,
        "matmul_full": 436_438_302_720,
        "matmul_causal": 428_389_171_200,
        "levanter": 436_532_674_560,
    }
    without = (386_547_056_640, 394_600_120_320, 388_119_920_640, 404_226_048_000, 396_176_916_480, 404_320_419_840)
    found = decoder_flops(*shape)
    assert tuple(found[name] for name in with_relative_positions) == without
    assert {name: found[name] + 6 * relative for name in with_relative_positions} == with_relative_positions
    assert found["deepseek"] == 402_653_184_000


def test_nanogpt_s_notebook():
    """karpathy/nanoGPT, transformer_sizing.ipynb: 124M at T 1024; its parameters have no biases."""
    bare = DecoderConfig(768, 12, 12, bias=False, norm="rms"), 50257, 1024
    found = decoder_flops(*bare)
    assert 1024 * found["matmul_full"] == 874_944_921_600 == 3 * 291_648_307_200
    assert 1024 * found["palm"] == 875_062_886_400


OLMO = {  # allenai/OLMo-ladder, configs/final.json: width, depth, mlp; N with the head and without the input embedding, FLOPs
    "190M": ((768, 12, 0), 190_354_176, 1_903_391_232),
    "370M": ((1024, 16, 0), 371_262_464, 3_443_922_944),
    "760M": ((1536, 16, 0), 758_220_288, 6_373_843_968),
    "1.3B": ((2048, 16, 0), 1_279_395_840, 10_109_071_360),
    "3.2B": ((3328, 16, 0), 3_169_537_280, 22_970_355_200),
    "7B": ((4096, 32, 11008), 6_887_575_552, 49_412_071_424),
    "13B": ((5120, 40, 13824), 13_202_396_160, 91_335_915_520),
}


@pytest.mark.parametrize("name", OLMO)
def test_the_ladder_of_olmo(name):
    """Its norms of queries and keys have 2 d scales in each layer, ours have none."""
    (width, depth, mlp), parameters, flops = OLMO[name]
    shape = DecoderConfig(width, depth, width // 128, mlp_width=mlp, **LLAMA), 100_352, 4096
    scales = 2 * depth * width
    assert decoder_counts(*shape).named()["with_head"] + scales == parameters
    assert decoder_flops_per_token(*shape, "olmo") + 6 * scales == flops


# Width, depth; total parameters and FLOPs per token (mcleish7/gemstone-scaling-laws, plotters/plotting_utils.py and its runs).
GEMSTONES = [
    (256, 23, 48_377_600, 341_618_496.0),
    (512, 16, 114_442_752, 711_074_304.0),
    (768, 45, 475_468_032, 3_375_938_880.0),
    (1024, 28, 543_482_880, 3_578_148_864.0),
    (1792, 7, 517_499_136, 2_838_161_088.0),
    (3072, 12, 2_007_837_696, 11_925_116_928.0),
]


@pytest.mark.parametrize("width, depth, parameters, flops", GEMSTONES)
def test_shapes_of_gemstones(width, depth, parameters, flops):
    heads = width // 128
    shape = DecoderConfig(width, depth, heads, heads // 2, head_dim=128, **LLAMA), 50304, 2048
    assert decoder_parameters(*shape) == parameters
    assert decoder_flops_per_token(*shape, "gemstones") == flops


def test_porian_s_smallest_model():
    """formll/resolving-scaling-law-discrepancies, data/summary_df*.pickle.xz: a token's FLOPs, over 6, by three conventions."""
    shape = DecoderConfig(96, 3, 4, mlp_width=256, **LLAMA), 50432, 2048
    found = decoder_flops(*shape)
    assert [found[name] / 6 for name in ("6n_hidden", "6n_products", "porian")] == [331_776, 5_173_248, 5_763_072]


def test_windows_of_nanochat():
    """No layer reads more keys than its window has; without one all are counted. By hand."""
    windowed = DecoderConfig(64, 2, 4, window=24, **LLAMA), 100, 96
    products = 6 * (2 * matmul_weights(windowed[0]) + 100 * 64)
    assert decoder_flops_per_token(*windowed, "nanochat") == products + 12 * 2 * 64 * 24
    assert decoder_flops_per_token(*LLAMA2, "nanochat") == decoder_flops_per_token(*LLAMA2, "matmul_full")


def test_a_longer_table_of_positions_is_counted():
    longer = DecoderConfig(64, 2, 4, max_length=48)
    flops = decoder_flops_per_token(longer, 100, 16, "6n")
    assert flops == 6 * decoder_parameters(longer, 100, 48)
    assert decoder_flops_per_token(longer, 100, 16, "palm") == flops - 6 * 48 * 64 + 12 * 2 * 64 * 16


def test_what_means_something_for_an_encoder():
    bert = EncoderConfig(width=768, depth=12, heads=12, types=2)
    total, attention = encoder_parameters(bert, 30522, 512), 12 * 12 * 768 * 512
    assert encoder_flops(bert, 30522, 512) == {
        "6n": 6 * total,
        "6n_hidden": 6 * 12 * 12 * 768**2,
        "palm": 6 * (total - 514 * 768) + attention,
        "deepseek": 72 * 12 * 768**2 + attention,
    }


# Table A9 of Hoffmann et al. 2022, as typed into karpathy/nanoGPT's scaling_laws.ipynb: published millions, width, MLP, head
# size, heads, depth; and their parameters as counted from these.
HOFFMANN = """
44 512 2048 64 8 8 43709440
57 576 2304 64 9 9 57328704
74 640 2560 64 10 10 73825280
90 640 2560 64 10 13 89828480
106 640 2560 64 10 16 105831680
117 768 3072 64 12 12 116728320
140 768 3072 64 12 15 139766016
163 768 3072 64 12 18 162803712
175 896 3584 64 14 14 174974464
196 896 3584 64 14 16 195874560
217 896 3584 64 14 18 216774656
251 1024 4096 64 16 16 251119616
278 1024 4096 64 16 18 278413312
306 1024 4096 64 16 20 305707008
425 1280 5120 128 10 18 424693760
489 1280 5120 128 10 21 488648960
509 1408 5632 128 11 18 509335552
552 1280 5120 128 10 24 552604160
587 1408 5632 128 11 21 586715008
632 1536 6144 128 12 19 632338944
664 1408 5632 128 11 24 664094464
724 1536 6144 128 12 22 724420608
816 1536 6144 128 12 25 816502272
893 1792 7168 128 14 20 892813824
1018 1792 7168 128 14 23 1018133760
1143 1792 7168 128 14 26 1143453696
1266 2048 8192 128 16 22 1265786880
1424 2176 8704 128 17 22 1424557568
1429 2048 8192 128 16 25 1429456896
1593 2048 8192 128 16 28 1593126912
1609 2176 8704 128 17 25 1609319552
1731 2304 9216 128 18 24 1730787840
1794 2176 8704 128 17 28 1794081536
2007 2304 9216 128 18 28 2006963712
2283 2304 9216 128 18 32 2283139584
2298 2560 10240 128 20 26 2298040320
2639 2560 10240 128 20 30 2638981120
2980 2560 10240 128 20 34 2979921920
3530 2688 10752 128 22 36 3530888448
3802 2816 11264 128 22 36 3802810880
4084 2944 11776 128 22 36 4084170496
4516 3072 12288 128 24 36 4516571136
6796 3584 14336 128 28 40 6796274688
9293 4096 16384 128 32 42 9294020608
11452 4352 17408 128 32 47 11452745728
12295 4608 18432 128 36 44 12296162304
12569 4608 18432 128 32 47 12569927680
13735 4864 19456 128 32 47 13736392704
14940 4992 19968 128 32 49 14941440512
16183 5120 20480 128 40 47 16184458240
"""
SHAPES = [tuple(map(int, line.split())) for line in HOFFMANN.strip().splitlines()]


def chinchilla(width, mlp, size, heads, depth):
    return DecoderConfig(width, depth, heads, head_dim=size, mlp_width=mlp, positions="rotary")


def of_table(width, mlp, size, heads, depth):
    """Ours, and what relative positions have in each layer: d w weights and two vectors of the heads' width w."""
    relative = depth * (width + 2) * size * heads
    return decoder_parameters(chinchilla(width, mlp, size, heads, depth), 32000, 2048) + relative


def test_the_shapes_of_hoffmann():
    assert len(SHAPES) == 50
    assert [of_table(*shape) for _, *shape, _ in SHAPES] == [count for *_, count in SHAPES]
    assert sum(round(count / 1e6) == millions for millions, *_, count in SHAPES) == 37
    off = {millions: abs(count / millions / 1e6 - 1) for millions, *_, count in SHAPES}
    assert max(off, key=off.get) == 44 and off[44] == pytest.approx(0.0066, abs=5e-5)


A4 = [
    (640, 2560, 64, 10, 10),
    (1024, 4096, 64, 16, 20),
    (1280, 5120, 128, 10, 24),
    (1792, 7168, 128, 14, 26),
    (2048, 8192, 128, 16, 28),
    (3584, 14336, 128, 28, 40),
]


def test_the_ratios_of_hoffmann_s_table_a4():
    """To 6 N D; the text's formula, with embedding and logits, gives other ones."""
    ratios = lambda name: [
        decoder_flops_per_token(chinchilla(*shape), 32000, 2048, name) / (6 * of_table(*shape)) for shape in A4
    ]
    assert ratios("hoffmann_blocks") == pytest.approx([1.025, 1.101, 1.083, 1.044, 1.033, 0.994], abs=5e-4)
    assert ratios("hoffmann_blocks") == pytest.approx([1.03, 1.10, 1.08, 1.04, 1.03, 0.99], abs=6e-3)
    assert ratios("hoffmann") == pytest.approx([1.58, 1.32, 1.23, 1.14, 1.12, 1.03], abs=6e-3)
