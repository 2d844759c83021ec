"""One training step of a tiny CLIP and a tiny CoCa, augmentation included, beside open_clip in torch.

    python benchmarks/pair_step.py [--rounds=5] [--steps=2] [--cases=clip,coca] [--device=cuda]

64 pictures of 64 pixels, patches of 8, ViT of 6 layers and width 192; captions of 32 tokens of 2,048, 4 layers of width 192.
CoCa has 16 queries, one pooler for both (open_clip's), and 4 multimodal layers with an MLP behind each attention. Losses are
open_clip's own; AdamW, global-norm clip 1. Ours crops on the device in the step; torch's pictures come from a DataLoader with
two workers. Every side is a process of its own; they step in turns. Needs torch, torchvision and open_clip (`pip install -e
".[parity]"`, tests/parity/no_deps.txt).
"""

from __future__ import annotations

import itertools

from side_by_side import DEVICE, main, narrow, prepared_torch, trained, trained_by_torch

ROWS, SIDE, LENGTH, VOCABULARY, STORED = 64, 64, 32, 2048, 512
TOWER = dict(width=192, heads=3)


def stored():
    """(pictures uint8[512, S, S, 3], tokens int32[512, T]): each caption [bos] ids [eos] pad, of any length."""
    import numpy as np

    rng = np.random.default_rng(0)
    tokens, places = rng.integers(3, VOCABULARY, (STORED, LENGTH)), np.arange(LENGTH)
    ends = rng.integers(5, LENGTH, (STORED, 1))
    tokens = np.where(places < ends, tokens, np.where(places == ends, 1, 0))
    tokens[:, 0] = 2
    return rng.integers(0, 256, (STORED, SIDE, SIDE, 3)).astype(np.uint8), tokens.astype(np.int32)


def ours(config, model, dtype: str):
    """A function that takes one step and returns its loss."""
    import numpy as np

    from pretrainx.core.images import Images
    from pretrainx.core.pairs import Pairs
    from pretrainx.core.vocabulary import Vocabulary
    from pretrainx.models.layers import Precision

    about = Pairs(Images(SIDE), Vocabulary(VOCABULARY, (("pad", 0), ("eos", 1), ("bos", 2))))
    objective = config.build(model, about, LENGTH, 1, Precision("float32", dtype))
    images, tokens = (each[:ROWS] for each in stored())
    batch = {
        "image": images,
        "tokens": tokens[:, None],
        "captions": np.ones(ROWS, np.int32),
        "valid": np.ones(ROWS, bool),
    }
    take = trained(objective, batch, ROWS, dtype)
    return lambda: float(take())


def vit():
    from pretrainx.models.vit import VitConfig

    return VitConfig(**TOWER, depth=6, patch=8, embedding_norm=True, patch_bias=False, unroll=0)


def our_clip(dtype: str):
    from pretrainx.models.dual_encoder import DualEncoderConfig
    from pretrainx.models.text_tower import TextTowerConfig
    from pretrainx.objectives.clip import ClipConfig

    return ours(ClipConfig(), DualEncoderConfig(vit(), TextTowerConfig(**TOWER, depth=4, unroll=0), 192), dtype)


def our_coca(dtype: str):
    from pretrainx.models.coca import CocaConfig as CocaModelConfig
    from pretrainx.models.coca import CocaTextConfig
    from pretrainx.objectives.coca import CocaConfig

    text = CocaTextConfig(**TOWER, depth=4, decoder_block="open_clip", unroll=0)
    model = CocaModelConfig(vit(), text, 192, queries=16, pooler_heads=3, pooler="shared")
    return ours(CocaConfig(), model, dtype)


class Stored:
    """Pairs as a torch data set: a Pillow image through a transform, and its tokens."""

    def __init__(self, transform):
        import torch
        from PIL import Image

        images, tokens = stored()
        self.images, self.transform = [Image.fromarray(image) for image in images], transform
        self.tokens = torch.tensor(tokens, dtype=torch.long)

    def __len__(self):
        return 10**6

    def __getitem__(self, number):
        return self.transform(self.images[number % STORED]), self.tokens[number % STORED]


def pairs():
    """Batches of (pixels, tokens) as open_clip's training transform makes them, on the device."""
    import torch
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIDE, (0.9, 1.0), interpolation=transforms.InterpolationMode.BICUBIC)
    transform = transforms.Compose([crop, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    loader = torch.utils.data.DataLoader(Stored(transform), ROWS, num_workers=2)
    made = iter(itertools.chain.from_iterable(itertools.repeat(loader)))
    return lambda: tuple(each.to(DEVICE) for each in next(made))


VISION = dict(image_size=SIDE, patch_size=8, width=192, layers=6, head_width=64)
TEXT = dict(context_length=LENGTH, vocab_size=VOCABULARY, width=192, heads=3, layers=4)


def clip_of_torch(dtype: str):
    prepared_torch()
    import open_clip

    text = TEXT | dict(eos_id=1, pool_type="eos")
    model = open_clip.CLIP(embed_dim=192, vision_cfg=VISION, text_cfg=text).train()
    criterion, made = open_clip.loss.ClipLoss(), pairs()

    def loss_of():
        images, tokens = made()
        with narrow(dtype):
            found = model(images, tokens)
        return criterion(*(each.float() for each in found[:3]))

    return trained_by_torch(model, loss_of, False)


def coca_of_torch(dtype: str):
    prepared_torch()
    import open_clip

    vision = VISION | dict(attentional_pool=True, attn_pooler_queries=16, attn_pooler_heads=3, output_tokens=True)
    text = TEXT | dict(embed_cls=True, output_tokens=True)
    writer = dict(width=192, heads=3, layers=4, context_length=LENGTH, vocab_size=VOCABULARY)
    model = open_clip.CoCa(embed_dim=192, multimodal_cfg=writer, text_cfg=text, vision_cfg=vision).train()
    criterion, made = open_clip.loss.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=0), pairs()

    def loss_of():
        images, tokens = made()
        with narrow(dtype):
            found = model(images, tokens)
        found = {name: each.float() if each.is_floating_point() else each for name, each in found.items()}
        return sum(criterion(**found))

    return trained_by_torch(model, loss_of, False)


CASES = {
    "clip": {"pretrainx": our_clip, "open_clip": clip_of_torch},
    "coca": {"pretrainx": our_coca, "open_clip": coca_of_torch},
}

if __name__ == "__main__":
    main(__doc__.split("\n")[0], CASES, dtypes="float32")
