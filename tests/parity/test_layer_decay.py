"""Layer-wise rates of a vision transformer, every parameter of it, beside the groups that timm makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.images import Images
from pretrainx.core.schedule import Ramp
from pretrainx.models.layers import Precision
from pretrainx.models.vit import VitConfig
from pretrainx.optim.optimizer import AdamWConfig, Group, Optimizer

pytestmark = pytest.mark.usefixtures("vision_reference")

DEPTH, K = 4, 0.65
# timm's names of what lies outside the blocks; of blocks, the part behind "blocks.N.".
OUTSIDE = {
    "cls_token": "class_token",
    "pos_embed": "position/table",
    "patch_embed.proj.weight": "patches/kernel",
    "patch_embed.proj.bias": "patches/bias",
    "norm.weight": "final_norm/scale",
    "norm.bias": "final_norm/bias",
}
INSIDE = {
    "norm1": ("attention_norm",),
    "attn.qkv": ("attention/query", "attention/key", "attention/value"),
    "attn.proj": ("attention/out",),
    "norm2": ("mlp_norm",),
    "mlp.fc1": ("mlp/up",),
    "mlp.fc2": ("mlp/down",),
}


def theirs() -> dict[str, float]:
    """{timm's name: multiplier}"""
    import timm
    from timm.optim import param_groups_layer_decay

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=DEPTH, num_heads=2, num_classes=3
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=K)
    return {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


def ours() -> dict[str, np.ndarray]:
    model = VitConfig(width=16, depth=DEPTH, heads=2, patch=8).build(Images(16, 3), Precision())
    boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    shapes = {path: leaf.shape for path, leaf in paths.leaves(axes.unbox(boxes))}
    optimizer = Optimizer(AdamWConfig(groups=(Group(layer_decay=K),)), Ramp(1.0, 1.0, 1), 0.0, axes.of_boxed(boxes))
    return {path: np.ravel(rate) for path, rate in optimizer.rates(shapes).items()}


def test_every_parameter_has_timms_rate():
    """But the last norm: timm counts it to the last block (k), BEiT's and MAE's code to the head (1), as we do."""
    rates, compared = ours(), set()
    for name, rate in theirs().items():
        if name in OUTSIDE:
            expected = 1.0 if name.startswith("norm.") else rate
            assert rates[OUTSIDE[name]] == pytest.approx([expected], rel=1e-12), name
            compared.add(OUTSIDE[name])
        elif name.startswith("blocks."):
            _, layer, part = name.split(".", 2)
            module, leaf = part.rsplit(".", 1)
            for path in INSIDE[module]:
                leaf = {"weight": "scale" if "norm" in path else "kernel"}.get(leaf, leaf)
                whole = f"layers/{path}/{leaf}"
                assert rates[whole][int(layer)] == pytest.approx(rate, rel=1e-12), name
                compared.add(whole)
        else:
            assert name.startswith("head.") and rate == 1.0
    assert compared == set(rates)
