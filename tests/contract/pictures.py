"""The objectives of pictures under contract, at 8 x 8 pixels."""

import numpy as np

from pretrainx.core.images import Images
from pretrainx.models.layers import Precision
from pretrainx.models.patch_clusters import PatchClusters
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.visual_tokenizer import VisualTokenizerConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.beit import BeitConfig
from pretrainx.objectives.byol import ByolConfig
from pretrainx.objectives.classification import ClassificationConfig
from pretrainx.objectives.dino import DinoConfig
from pretrainx.objectives.dvae import DvaeConfig
from pretrainx.objectives.mae import MaeConfig
from pretrainx.objectives.moco import MocoConfig
from pretrainx.objectives.moco_v3 import MocoV3Config
from pretrainx.objectives.simclr import SimclrConfig
from pretrainx.objectives.simsiam import SimsiamConfig
from pretrainx.objectives.vq_vae import VqVaeConfig

IMAGES = Images(8, 3, ("a", "b", "c", "d"), (0.5, 0.4, 0.6), (0.3, 0.2, 0.25))
VIT = VitConfig(
    width=32, depth=2, heads=4, patch=2, mlp_width=64, dropout=0.1, drop_path=0.2, layer_scale=0.1, remat="weight_dots"
)
PLAIN = VitConfig(width=32, depth=2, heads=4, patch=4, positions="sincos", pool="mean")
BEIT = VitConfig(
    width=32, depth=2, heads=4, patch=2, positions="relative", mask_token=True, key_bias=False, layer_scale=0.1
)
RESNET = ResNetConfig(stages=(1, 1), width=32)
GROUPS = ResNetConfig(stages=(1, 1), width=32, norm="group", norm_groups=4)
SHUFFLED = ResNetConfig(stages=(1, 1), width=32, batch_group=2)
COLOUR = AugmentConfig("simclr_small")
SMALL = dict(hidden=(32,), out=32, head_norm="none", views=COLOUR)
PAIR = dict(first=COLOUR, second=AugmentConfig("byol_second", blur=0.0))
LOCAL = AugmentConfig("dino_local", size=4, blur=0.0)


def built(config, model, **given):
    return config.build(model, IMAGES, Precision("float64", "float64"), **given)


CASES = {
    "simclr": lambda: built(SimclrConfig(**SMALL), VIT),
    "simclr, batch norm": lambda: built(SimclrConfig(hidden=(32,), out=32, views=COLOUR), RESNET),
    "moco": lambda: built(MocoConfig(hidden=32, out=32, queue=32, momentum=0.9, views=COLOUR), GROUPS),
    "moco, shuffled groups": lambda: built(
        MocoConfig(hidden=32, out=32, queue=32, momentum=0.9, bn="grouped", views=COLOUR), SHUFFLED
    ),
    "moco_v3": lambda: built(MocoV3Config(hidden=32, out=32, head_norm="none", momentum_steps=9, **PAIR), PLAIN),
    "byol": lambda: built(ByolConfig(hidden=(32,), out=32, head_norm="none", momentum_steps=9, **PAIR), PLAIN),
    "simsiam": lambda: built(SimsiamConfig(hidden=(32,), out=32, bottleneck=8, head_norm="none", views=COLOUR), PLAIN),
    "dino": lambda: built(
        DinoConfig(
            prototypes=32,
            hidden=(32,),
            bottleneck=16,
            momentum_steps=9,
            temperature_steps=9,
            local_crops=1,
            local=LOCAL,
            **PAIR,
        ),
        PLAIN,
    ),
    "moco, batch norm": lambda: built(
        MocoConfig(hidden=32, out=32, queue=32, momentum=0.9, bn="global", views=COLOUR), RESNET
    ),
    "moco_v3, batch norm": lambda: built(MocoV3Config(hidden=32, out=32, momentum_steps=9, **PAIR), RESNET),
    "byol, batch norm": lambda: built(ByolConfig(hidden=(32,), out=32, momentum_steps=9, **PAIR), RESNET),
    "simsiam, batch norm": lambda: built(SimsiamConfig(hidden=(32,), out=32, bottleneck=8, views=COLOUR), RESNET),
    "mae": lambda: built(MaeConfig(decoder_width=16, decoder_depth=1, decoder_heads=2), VIT),
    "beit": lambda: built(BeitConfig(min_block=2), BEIT, tokenizer=PatchClusters(IMAGES, 2, 16)),
    "vq_vae": lambda: built(VqVaeConfig(), VisualTokenizerConfig(codes=16, code_width=8, patch=4, width=32, blocks=1)),
    "dvae": lambda: built(
        DvaeConfig(kl_steps=3, temperature_steps=9), VisualTokenizerConfig("logits", 16, 8, 4, width=32, blocks=1)
    ),
    "classification": lambda: built(ClassificationConfig(augment=COLOUR), RESNET),
}
# With statistics of the rows at hand: microbatches change them, and so these are compared at equal microbatches.
OF_MICROBATCHES = ("simclr, batch norm", "moco, shuffled groups", "classification", "clip, batch norm")
OF_MICROBATCHES += ("moco, batch norm", "moco_v3, batch norm", "byol, batch norm", "simsiam, batch norm")
# Figures of the rows of a microbatch, where the loss does not couple rows: means of them, not those of the batch.
FIGURES = ("embedding_std", "embedding_rank", "alignment", "uniformity", "teacher_entropy")


def fields(spec, rng):
    """The fields of a batch of pictures beside "valid"."""
    shape = spec["image"].shape
    found = {"image": rng.integers(0, 256, shape).astype(np.uint8)}
    if "label" in spec:
        found["label"] = rng.integers(0, len(IMAGES.classes), shape[0]).astype(np.int32)
    return found
