"""Parameters and FLOPs of models of pictures and captions: published integers, the leaves and the products of real modules."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from pretrainx.core import paths
from pretrainx.core.images import Images
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.coca import CocaConfig, CocaTextConfig
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.sizes import score_flops, visible_keys
from pretrainx.models.sizes_pairs import coca_parameters, dual_encoder_parameters, flops_per_pair
from pretrainx.models.text_tower import TextTowerConfig
from pretrainx.models.vit import VitConfig

VOCABULARY, LENGTH, SIDE = Vocabulary(99, (("pad", 0), ("eos", 1), ("bos", 2))), 10, 16
BASE = {"width": 768, "depth": 12, "heads": 12}
SIZES = {"width": 24, "depth": 2, "heads": 4}
VIT, TEXT = VitConfig(**SIZES, patch=4), {**SIZES, "vocab_multiple": 16, "mlp_width": 40}
MEAN = VitConfig(32, 1, 4, patch=4, class_token=False, pool="mean", pool_norm=True)
MAP = replace(VIT, pool="map", class_token=False)
BARE = {"norm": "rms", "bias": False, "gated": True, "activation": "silu"}
DUAL = {
    "clip": DualEncoderConfig(
        replace(VIT, embedding_norm=True, patch_bias=False), TextTowerConfig(**TEXT | {"width": 32}), 20
    ),
    "siglip": DualEncoderConfig(MAP, TextTowerConfig(**TEXT, causal=False, pool="last"), 24, "text"),
    "resnet": DualEncoderConfig(ResNetConfig((1, 2), width=8), TextTowerConfig(**TEXT, **BARE), 20),
}
COCA = {
    "parallel": CocaConfig(MEAN, CocaTextConfig(**TEXT, decoder_depth=3), 20, 5, 4, "parallel"),
    "cascade": CocaConfig(VIT, CocaTextConfig(**TEXT, **BARE), 20, 5, 4),
    "shared": CocaConfig(MAP, CocaTextConfig(**TEXT, decoder_block="open_clip"), 20, 5, 3, "shared"),
    "bare": CocaConfig(MEAN, CocaTextConfig(**TEXT, **BARE, decoder_block="open_clip"), 20, 5, 4),
}


def build(config, offset=None):
    return config.build(Images(SIDE), VOCABULARY, LENGTH, Precision(), SIDE, 1.0, offset)


def leaves(model):
    """How many numbers the module has, without the padding of the vocabulary."""
    given = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1, LENGTH), jnp.int32)
    found = 0
    for _, leaf in paths.leaves(jax.eval_shape(model.init, jax.random.key(0), *given)["params"]):
        rows = leaf.value.shape[leaf.names.index("vocab")] if "vocab" in leaf.names else VOCABULARY.size
        found += leaf.value.size * VOCABULARY.size // rows
    return found


def test_published_counts():
    image = VitConfig(**BASE, patch=32, embedding_norm=True, patch_bias=False)
    text = {"width": 512, "depth": 12, "heads": 8}
    assert (
        dual_encoder_parameters(DualEncoderConfig(image, TextTowerConfig(**text), 512), 49_408, 77, 224) == 151_277_313
    )
    siglip = DualEncoderConfig(
        VitConfig(**BASE, class_token=False, pool="map"),
        TextTowerConfig(**BASE, causal=False, pool="last"),
        768,
        "text",
    )
    assert dual_encoder_parameters(siglip, 32_000, 64, 224, offset=True) == 203_155_970
    coca = CocaConfig(
        VitConfig(**BASE, patch=32, embedding_norm=True, patch_bias=False),
        CocaTextConfig(**text, decoder_block="open_clip"),
        512,
        256,
        8,
        "shared",
    )
    assert coca_parameters(coca, 49_408, 76, 224) == 253_560_065


@pytest.mark.parametrize("offset", [None, -10.0])
@pytest.mark.parametrize("name", DUAL)
def test_leaves_of_a_dual_encoder(name, offset):
    count = dual_encoder_parameters(DUAL[name], VOCABULARY.size, LENGTH, SIDE, offset is not None)
    assert leaves(build(DUAL[name], offset)) == count


@pytest.mark.parametrize("name", COCA)
def test_leaves_of_coca(name):
    assert leaves(build(COCA[name])) == coca_parameters(COCA[name], VOCABULARY.size, LENGTH, SIDE)


def products(function, *given):
    """FLOPs of the matrix products of a program, as it is traced."""

    def of(jaxpr):
        found = 0
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (left, _), _ = equation.params["dimension_numbers"]
                shape = equation.invars[0].aval.shape
                found += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in left)
            times = equation.params.get("length", 1)  # of a scan
            found += times * sum(map(of, jax.core.jaxprs_in_params(equation.params)))
        return found

    return of(jax.make_jaxpr(function)(*given).jaxpr)


@pytest.mark.parametrize("name", ["clip", "siglip", *COCA])
def test_flops_are_those_of_the_products(name):
    """Three times the forward pass, as if causal attention were not masked but left out: half of what is computed."""
    config = (DUAL | COCA)[name]
    model, text = build(config), config.text
    given = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1, LENGTH), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), *given)

    def forward(variables, images, tokens):
        found = model.apply(variables, images, tokens)
        return model.apply(variables, found["hidden"][:, :-1], method="logits") if name in COCA else found

    unseen = lambda length, depth: score_flops(text, length - visible_keys(length), depth) * length
    hidden = unseen(LENGTH + (name in COCA), text.depth) if text.causal else 0
    hidden += unseen(LENGTH, model.decoder_depth) if name in COCA else 0
    padding = 6 * text.width * (-VOCABULARY.size % 16) * (LENGTH - 1) * (name in COCA)
    counted = flops_per_pair(model, Images(SIDE), SIDE, LENGTH)
    assert 3 * products(forward, variables, *given) == pytest.approx(counted + hidden + padding, rel=1e-12)
