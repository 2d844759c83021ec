"""MoCo v3 after Chen et al. 2021 (arXiv:2104.02057): ViT-S/16 with a frozen patch projection, 300 epochs of ImageNet.

    pretrainx train --config=configs/vision/moco_v3_vit_small.py --workdir=runs/moco3 --config.data.paths='("imagenet/train",)'

12 heads, as the authors' ViT-S has. Hardware: 16 accelerators with 16 GB. `:smoke` is 20 steps of a tiny one on pictures
generated in code.
Each picture is stored once, as the middle square resized to `config.data.size` pixels, and random crops are taken from that
square: its edges are not seen, and crops have no more detail than it has. A larger `config.data.size` keeps more.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 3.1059, 2.8582, 2.6142, 2.5839, 2.8339; the last ten average 2.7120, with seed 1 2.6796.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="moco_v3")
    config.model = dict(name="vit", width=384, depth=12, heads=12, patch=16, positions="sincos", initial="xavier")
    if smoke:
        config.objective.update(hidden=64, out=32)
        config.model.update(width=48, depth=2, heads=3, patch=8)
    config.data = dict(name="images", source="shapes", size=32, limit=512)
    if not smoke:
        config.data = dict(name="images", source="folder", paths=("imagenet/train",), size=224, held_out=0.005)
    config.optimizer = dict(name="adamw", b2=0.999, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=1e-3 if smoke else 2.4e-3, warmup=5 if smoke else 12_480, floor=0.0)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 93_600,
        batch_size=32 if smoke else 4096,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=0.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(limit=32 if smoke else 10_000)
    config.evals.representations = dict(labels_per_class=16 if smoke else 0, train_limit=100_000)
    return config
