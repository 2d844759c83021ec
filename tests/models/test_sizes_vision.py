"""Parameters and FLOPs of networks that read pictures: published integers, and the leaves of the real modules."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.images import Images
from pretrainx.models import visual_tokenizer
from pretrainx.models.layers import Precision
from pretrainx.models.mae import MaskedAutoencoder
from pretrainx.models.patch_clusters import PatchClusters
from pretrainx.models.resnet import RESNET18, RESNET50, ResNetConfig
from pretrainx.models.sizes_vision import (
    beit_parameters,
    flops_per_image,
    ids_flops,
    mae_flops_per_image,
    mae_parameters,
    resnet_flops_per_image,
    resnet_parameters,
    tokenizer_flops_per_image,
    vit_flops_per_image,
    vit_parameters,
)
from pretrainx.models.visual_tokenizer import VisualTokenizer, VisualTokenizerConfig
from pretrainx.models.vit import VitConfig
from pretrainx.runs.operations import matmul_flops

VIT_B = VitConfig(width=768, depth=12, heads=12)
VIT_L = VitConfig(width=1024, depth=24, heads=16)
MAE_B = replace(VIT_B, positions="sincos")
MAE_DECODER = VitConfig(width=512, depth=8, heads=16)
BEIT_B = replace(VIT_B, positions="relative", layer_scale=0.1, key_bias=False, mask_token=True)
LARGE18, LARGE50 = (replace(config, stem="large") for config in (RESNET18, RESNET50))


def leaves(model, size, channels=3):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, channels)))
    return sum(leaf.value.size for _, leaf in paths.leaves(shapes["params"]))


def test_published_counts():
    assert vit_parameters(VIT_B, 224, classes=1000) == 86_567_656
    assert vit_parameters(VIT_L, 224, classes=1000) == 304_326_632
    assert resnet_parameters(LARGE50, classes=1000) == 25_557_032
    assert resnet_parameters(LARGE18, classes=1000) == 11_689_512
    assert mae_parameters(MAE_B, MAE_DECODER, 224, tables=True) == 111_907_840
    assert mae_parameters(MAE_B, MAE_DECODER, 224) == 111_907_840 - 197 * (768 + 512)
    assert beit_parameters(BEIT_B, 224, 8192) == 91_965_776


@pytest.mark.parametrize(
    "config",
    [
        VIT_B,
        BEIT_B,
        MAE_B,
        VitConfig(24, 3, 4, kv_heads=2, positions="none", class_token=False, pool="mean", pool_norm=True, norm="rms"),
        VitConfig(24, 3, 4, positions="relative", class_token=False, pool="mean", norm_first=False, bias=False),
    ],
)
def test_leaves_of_a_vit(config):
    assert leaves(config.build(Images(64), Precision()), 64) == vit_parameters(config, 64)


@pytest.mark.parametrize("config", [LARGE18, LARGE50, ResNetConfig((1, 2), True, 6, norm="group", norm_groups=3)])
def test_leaves_of_a_resnet(config):
    assert leaves(config.build(Images(32), Precision()), 32) == resnet_parameters(config)


def test_leaves_of_a_masked_autoencoder():
    model = MaskedAutoencoder(MAE_B.build(Images(224), Precision()), MAE_DECODER, 14, 768)
    places = jnp.zeros((1, 49), int), jnp.zeros((1, 196), int)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)), *places)
    count = sum(leaf.value.size for _, leaf in paths.leaves(shapes["params"]))
    assert count == mae_parameters(MAE_B, MAE_DECODER, 224) == 111_655_680


def test_flops():
    """By hand; and what is published of ResNet-50 and ViT-B without their heads, in multiplications of a forward pass."""
    small = VitConfig(8, 2, 2, mlp_width=16, patch=4)
    weights = 2 * (4 * 64 + 2 * 128)
    forward = lambda tokens: 6 * weights * tokens + 12 * 2 * 8 * tokens**2
    assert vit_flops_per_image(small, 12, 1) == 6 * 16 * 8 * 9 + forward(10)
    assert vit_flops_per_image(small, 12, 1, visible=2) == 6 * 16 * 8 * 9 + forward(3)
    assert flops_per_image(small, Images(12, 1, mean=(0.5,), std=(0.5,))) == vit_flops_per_image(small, 12, 1)
    decoder = VitConfig(4, 1, 1, mlp_width=4)
    whole = 6 * 16 * 8 * 9 + forward(3) + 6 * 8 * 4 * 3 + 6 * 96 * 10 + 12 * 4 * 100 + 6 * 4 * 16 * 9
    assert mae_flops_per_image(small, decoder, 12, 1, 2) == whole
    assert resnet_flops_per_image(LARGE50, 224) / 6 == pytest.approx(4.087e9, rel=1e-3)
    assert resnet_flops_per_image(LARGE18, 224) / 6 == pytest.approx(1.814e9, rel=1e-3)
    assert vit_flops_per_image(VIT_B, 224) / 6 == pytest.approx(17.56e9, rel=1e-2)
    one = ResNetConfig((1,), width=2)
    assert resnet_flops_per_image(one, 5, 1) == 6 * 25 * 9 * (2 + 4 + 4)


@pytest.mark.parametrize("kind", ["nearest", "logits"])
def test_flops_of_a_visual_tokenizer(kind):
    """Of the real module: each kernel is used once at each place of its layer's result or, on the way up, of its input."""
    config = VisualTokenizerConfig(kind, codes=16, code_width=4, patch=4, width=8, blocks=3)
    model = VisualTokenizer(config, Images(24), Precision())
    leaves = paths.leaves(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))["params"])
    places = {"down_0": 12**2, "to_pixels": 12**2}  # all other layers are at the grid of 6 x 6 cells
    kernels = [(path.split("/")[0], leaf.value.size) for path, leaf in leaves if path.endswith("kernel")]
    assert len(kernels) == 2 + 2 + 2 + 2 * 3 * 2
    wanted = 6 * sum(size * places.get(layer, 6**2) for layer, size in kernels)
    codes = 16 * 4 * 6**2
    assert tokenizer_flops_per_image(config, 24, 3) == wanted + (6 if kind == "logits" else 4) * codes


@pytest.mark.parametrize("kind", ["nearest", "logits", "clusters"])
def test_flops_of_naming_tokens(kind):
    """Of the frozen tokenizer's forward pass, as it is traced."""
    if kind == "clusters":
        tokenizer = PatchClusters(Images(24), 4, 16)
    else:
        config = VisualTokenizerConfig(kind, codes=16, code_width=4, patch=4, width=8, blocks=3)
        tokenizer = VisualTokenizer(config, Images(24), Precision())
    tree = jax.eval_shape(lambda: visual_tokenizer.first_tree(tokenizer, jax.random.key(0), Images(24)))
    name = lambda tree, pictures: visual_tokenizer.ids_of(tokenizer, axes.unbox(tree), pictures)
    traced = jax.jit(name).trace(tree, jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32))
    assert ids_flops(tokenizer, 24) == matmul_flops(traced.jaxpr)
