"""A masked autoencoder after He et al. 2022 (arXiv:2111.06377): ViT-B/16, three quarters hidden, 800 epochs of ImageNet.
`:huge` is ViT-H/14.

    pretrainx train --config=configs/vision/mae_vit_base.py --workdir=runs/mae --config.data.paths='("imagenet/train",)'

Hardware: 32 accelerators with 16 GB, or fewer with more `config.train.microbatches`. `:smoke` is 20 steps of a tiny one on
pictures generated in code.
Each picture is stored once, as the middle square resized to `config.data.size` pixels, and random crops are taken from that
square: its edges are not seen, and crops have no more detail than it has. A larger `config.data.size` keeps more.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 1.8915, 1.2577, 1.1588, 0.9331, 0.9628; the last ten average 0.9562, with seed 1 0.8682.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "huge", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :huge or :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="mae", mask_ratio=0.75, decoder_width=512, decoder_depth=8, decoder_heads=16)
    config.model = dict(name="vit", width=768, depth=12, heads=12, patch=16, positions="sincos", initial="xavier")
    if arg == "huge":
        config.model.update(width=1280, depth=32, heads=16, patch=14)
        config.mesh = dict(data=1, fsdp=-1)
    if smoke:
        config.objective.update(decoder_width=32, decoder_depth=1, decoder_heads=2, normalise_pixels=False)
        config.model.update(width=48, depth=2, heads=3, patch=4)
    config.data = dict(name="images", source="shapes", size=32, limit=512)
    if not smoke:
        config.data = dict(name="images", source="folder", paths=("imagenet/train",), size=224, held_out=0.005)
    config.optimizer = dict(name="adamw", b2=0.95, weight_decay=0.05)
    config.schedule = dict(name="cosine", peak=3e-3 if smoke else 2.4e-3, warmup=5 if smoke else 12_480, floor=0.0)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 249_600,
        batch_size=32 if smoke else 4096,
        microbatches=2 if arg == "huge" else 1,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=0.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(limit=32 if smoke else 10_000)
    config.evals.representations = dict(labels_per_class=16 if smoke else 0, train_limit=100_000)
    return config
