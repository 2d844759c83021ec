"""One training step of SimCLR, MoCo, MAE and BEiT, augmentation included, beside lightly and transformers in torch.

    python benchmarks/vision_step.py [--rounds=5] [--steps=2] [--cases=simclr,moco,mae,beit] [--device=cuda]

SimCLR: ResNet-18 with the small stem, 64 pictures of 32 pixels in two views, lightly's projector, loss and transforms. MoCo
v2: the same network and pictures, 4,096 keys, lightly's projector, momentum update and memory bank. MAE: ViT of 6 layers, width
192, 64 pixels in patches of 8, decoder of 2 layers and width 128, batch 64, random crop and flip. BEiT: the same encoder with
relative positions, batch 32, 512 codes, crop, flip and jitter; torch is given random codes, ours are of k-means centres of
patches. AdamW, global-norm clip 1. Ours draws views and masks on the device in the step; torch's pictures come from a
DataLoader with two workers, as its users have it. Every side is a process of its own; they step in turns. Needs torch,
transformers, torchvision and lightly (`pip install -e ".[parity]"`, tests/parity/no_deps.txt).
"""

from __future__ import annotations

import itertools

from side_by_side import DEVICE, main, narrow, prepared_torch, trained, trained_by_torch

SIMCLR = dict(rows=64, size=32)
MAE = dict(rows=64, size=64)
BEIT = dict(rows=32, size=64)
STORED = 512  # pictures
CODES = 512
QUEUE = 4096


def pictures(size: int):
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (STORED, size, size, 3)).astype(np.uint8)


def ours(config, model, sizes: dict, dtype: str, **given):
    """A function that takes one step and returns its loss."""
    import numpy as np

    from pretrainx.core.images import Images
    from pretrainx.models.layers import Precision

    objective = config.build(model, Images(sizes["size"]), Precision("float32", dtype), **given)
    batch = {"image": pictures(sizes["size"])[: sizes["rows"]], "valid": np.ones(sizes["rows"], bool)}
    take = trained(objective, batch, sizes["rows"], dtype)
    return lambda: float(take())


def our_simclr(dtype: str):
    from pretrainx.models.resnet import RESNET18
    from pretrainx.objectives.augmentation import AugmentConfig
    from pretrainx.objectives.simclr import SimclrConfig

    return ours(
        SimclrConfig(temperature=0.5, hidden=(512,), out=128, views=AugmentConfig("simclr_small")),
        RESNET18,
        SIMCLR,
        dtype,
    )


def our_moco(dtype: str):
    from pretrainx.models.resnet import RESNET18
    from pretrainx.objectives.augmentation import AugmentConfig
    from pretrainx.objectives.moco import MocoConfig

    config = MocoConfig(hidden=512, out=128, queue=QUEUE, views=AugmentConfig("simclr_small"))
    return ours(config, RESNET18, SIMCLR, dtype)


def vit(**habits):
    from pretrainx.models.vit import VitConfig

    return VitConfig(width=192, depth=6, heads=3, patch=8, unroll=0, **habits)


def our_mae(dtype: str):
    from pretrainx.objectives.mae import MaeConfig

    config = MaeConfig(decoder_width=128, decoder_depth=2, decoder_heads=4)
    return ours(config, vit(positions="sincos", initial="xavier"), MAE, dtype)


def our_beit(dtype: str):
    from pretrainx.core.images import Images
    from pretrainx.models.patch_clusters import PatchClusters
    from pretrainx.objectives.beit import BeitConfig

    model = vit(positions="relative", mask_token=True, key_bias=False, layer_scale=0.1)
    tokenizer = PatchClusters(Images(BEIT["size"]), 8, CODES)
    return ours(BeitConfig(min_block=4), model, BEIT, dtype, tokenizer=tokenizer)


class Stored:
    """Pictures as Pillow images through a transform; a torch data set."""

    def __init__(self, size: int, transform):
        from PIL import Image

        self.images, self.transform = [Image.fromarray(picture) for picture in pictures(size)], transform

    def __len__(self):
        return 10**6

    def __getitem__(self, number):
        return self.transform(self.images[number % STORED])


def batches(sizes: dict, transform):
    import torch

    loader = torch.utils.data.DataLoader(Stored(sizes["size"], transform), sizes["rows"], num_workers=2)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def small_resnet(torch, head):
    """torchvision's ResNet-18 with the stem for small pictures, and a head."""
    import torchvision

    backbone = torchvision.models.resnet18(zero_init_residual=True)
    backbone.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    backbone.maxpool, backbone.fc = torch.nn.Identity(), torch.nn.Identity()
    return torch.nn.Sequential(backbone, head).train()


def two_views():
    """Pairs of batches by lightly's transform."""
    from lightly.transforms.simclr_transform import SimCLRTransform

    made = iter(batches(SIMCLR, SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)))
    return lambda: tuple(view.to(DEVICE) for view in next(made))


def simclr_of_torch(dtype: str):
    torch = prepared_torch()
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    model, criterion, views = small_resnet(torch, SimCLRProjectionHead(512, 512, 128)), NTXentLoss(0.5), two_views()

    def loss_of():
        first, second = views()
        with narrow(dtype):
            z = model(torch.cat([first, second]))
        return criterion(z[: len(first)].float(), z[len(first) :].float())

    return trained_by_torch(model, loss_of, False)


def moco_of_torch(dtype: str):
    torch = prepared_torch()
    import copy

    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    model = small_resnet(torch, MoCoProjectionHead(512, 512, 128))
    teacher = copy.deepcopy(model).to(DEVICE)
    deactivate_requires_grad(teacher)
    criterion, views = NTXentLoss(0.2, memory_bank_size=(QUEUE, 128)).to(DEVICE), two_views()

    def loss_of():
        first, second = views()
        update_momentum(model, teacher, 0.999)
        with narrow(dtype):
            query = model(first)
            with torch.no_grad():
                key = teacher(second)
        return criterion(query.float(), key.float())

    return trained_by_torch(model, loss_of, False)


def cropped(*others):
    from torchvision import transforms

    cubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(64, (0.2, 1.0), interpolation=cubic)
    return transforms.Compose(
        [
            *others,
            crop,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


SIZES = dict(
    hidden_size=192,
    num_hidden_layers=6,
    num_attention_heads=3,
    intermediate_size=768,
    image_size=64,
    patch_size=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def mae_of_torch(dtype: str):
    prepared_torch()
    import transformers

    decoder = dict(hidden_size=128, num_attention_heads=4, num_hidden_layers=2, intermediate_size=512)
    decoder = {f"decoder_{name}": value for name, value in decoder.items()}
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SIZES, **decoder, norm_pix_loss=True)).train()
    made = iter(batches(MAE, cropped()))

    def loss_of():
        pixels = next(made).to(DEVICE)
        with narrow(dtype):
            return model(pixel_values=pixels).loss

    return trained_by_torch(model, loss_of, False)


def beit_of_torch(dtype: str):
    torch = prepared_torch()
    import transformers
    from torchvision import transforms

    habits = dict(use_mask_token=True, use_shared_relative_position_bias=True, use_absolute_position_embeddings=False)
    config = transformers.BeitConfig(
        **SIZES, **habits, vocab_size=CODES, layer_scale_init_value=0.1, drop_path_rate=0.0, use_mean_pooling=True
    )
    model = transformers.BeitForMaskedImageModeling(config).train()
    made = iter(batches(BEIT, cropped(transforms.ColorJitter(0.4, 0.4, 0.4))))
    hidden = round(75 / 196 * 64)

    def loss_of():
        pixels = next(made).to(DEVICE)
        masked = torch.zeros(BEIT["rows"], 64, dtype=torch.bool, device=DEVICE)
        masked[:, :hidden] = True
        labels = torch.randint(0, CODES, (BEIT["rows"] * hidden,), device=DEVICE)
        with narrow(dtype):
            return model(pixel_values=pixels, bool_masked_pos=masked, labels=labels).loss

    return trained_by_torch(model, loss_of, False)


CASES = {
    "simclr": {"pretrainx": our_simclr, "lightly": simclr_of_torch},
    "moco": {"pretrainx": our_moco, "lightly": moco_of_torch},
    "mae": {"pretrainx": our_mae, "transformers": mae_of_torch},
    "beit": {"pretrainx": our_beit, "transformers": beit_of_torch},
}

if __name__ == "__main__":
    main(__doc__.split("\n")[0], CASES, dtypes="float32")
