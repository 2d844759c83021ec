"""The objectives of pictures and captions under contract, at 8 x 8 pixels and 10 tokens."""

import numpy as np

from contract.pictures import IMAGES, RESNET
from pretrainx.core.pairs import Pairs
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.coca import CocaConfig as CocaModelConfig
from pretrainx.models.coca import CocaTextConfig
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.text_tower import TextTowerConfig
from pretrainx.models.vit import VitConfig
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.clip import ClipConfig
from pretrainx.objectives.coca import CocaConfig
from pretrainx.objectives.siglip import SiglipConfig

WIDTH, CAPTIONS = 10, 3
FIRST, LAST = 3, 50  # ids of text
ABOUT = Pairs(IMAGES, Vocabulary(LAST, (("pad", 0), ("eos", 1), ("bos", 2))))
SIZES = {"width": 32, "depth": 2, "heads": 4}
TEXT = {**SIZES, "vocab_multiple": 16, "dropout": 0.1}
CLIP_VIT = VitConfig(**SIZES, patch=4, embedding_norm=True, patch_bias=False, dropout=0.1)
CLIP = DualEncoderConfig(CLIP_VIT, TextTowerConfig(**TEXT, activation="quick_gelu", remat="full"), 32)
RESNET_CLIP = DualEncoderConfig(RESNET, TextTowerConfig(**TEXT), 32)
SIGLIP = DualEncoderConfig(
    VitConfig(**SIZES, patch=4, pool="map", class_token=False),
    TextTowerConfig(**TEXT, causal=False, pool="last"),
    32,
    "text",
)
COCA = CocaModelConfig(VitConfig(**SIZES, patch=4), CocaTextConfig(**TEXT), 32, queries=4, pooler_heads=4)
SHARED = CocaModelConfig(
    VitConfig(**SIZES, patch=4),
    CocaTextConfig(**{**TEXT, "depth": 1}, decoder_depth=2, decoder_block="open_clip", shifted_class_mask=True),
    32,
    queries=4,
    pooler_heads=2,
    pooler="shared",
)
PARALLEL = CocaModelConfig(VitConfig(**SIZES, patch=4), CocaTextConfig(**TEXT), 32, queries=4, pooler="parallel")
FLIPPED = AugmentConfig("clip", flip=0.5)


def built(config, model):
    return config.build(model, ABOUT, WIDTH, CAPTIONS, Precision("float64", "float64"))


CASES = {
    "clip": lambda: built(ClipConfig(block=2, augment=FLIPPED), CLIP),
    "clip, ring": lambda: built(ClipConfig(form="ring", duplicates="negatives"), CLIP),
    "clip, batch norm": lambda: built(ClipConfig(), RESNET_CLIP),
    "siglip": lambda: built(SiglipConfig(form="ring"), SIGLIP),
    "coca": lambda: built(CocaConfig(), COCA),
    "coca, shared": lambda: built(CocaConfig(block=3), SHARED),
    "coca, parallel": lambda: built(CocaConfig(contrastive_weight=0.5), PARALLEL),
}


def fields(spec, rng):
    """The fields of a batch of pictures and captions beside "valid"; two rows have the same captions."""
    rows, captions, width = spec["tokens"].shape
    image = rng.integers(0, 256, spec["image"].shape).astype(np.uint8)
    lengths = rng.integers(3, width, (rows, captions, 1))
    places = np.arange(width)
    tokens = np.where(places < lengths, rng.integers(FIRST, LAST, (rows, captions, width)), 0)
    tokens = np.where(places == lengths - 1, 1, np.where(places == 0, 2, tokens)).astype(np.int32)
    tokens[5] = tokens[4, :1]
    tokens[4] = tokens[4, :1]
    return {"image": image, "tokens": tokens, "captions": rng.integers(1, captions + 1, rows).astype(np.int32)}
