"""BEiT after Bao et al. 2022 (arXiv:2106.08254): ViT-B/16 names visual tokens of hidden patches, 800 epochs of ImageNet.

    pretrainx train --config=configs/vision/visual_tokenizer.py --workdir=runs/tokenizer
    pretrainx train --config=configs/vision/beit_vit_base.py --workdir=runs/beit

The tokens come from the run of the first line; a tokenizer that uses too little of its codebook is refused. Hardware: 32
accelerators with 16 GB. `:smoke` is 20 steps of a tiny one on pictures generated in code, with k-means centres as tokens.
Each picture is stored once, as the middle square resized to `config.data.size` pixels, and random crops are taken from that
square: its edges are not seen, and crops have no more detail than it has. A larger `config.data.size` keeps more.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 2.7488, 2.4871, 2.1671, 2.0880, 2.1646; the last ten average 2.1083, with seed 1 2.1323.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="beit", tokenizer="" if smoke else "runs/tokenizer")
    config.model = dict(name="vit", width=768, depth=12, heads=12, patch=16, positions="relative", key_bias=False)
    config.model.update(mask_token=True, layer_scale=0.1, drop_path=0.1, pool="mean", smaller_residual=True)
    if smoke:
        config.objective.update(clusters=16, min_block=4)
        config.model.update(width=48, depth=2, heads=3, patch=4, drop_path=0.0)
    config.data = dict(name="images", source="shapes", size=32, limit=512)
    if not smoke:
        config.data = dict(name="images", source="folder", paths=("imagenet/train",), size=224, held_out=0.005)
    config.optimizer = dict(name="adamw", b2=0.98, weight_decay=0.05)
    config.schedule = dict(name="cosine", peak=3e-3 if smoke else 1.5e-3, warmup=5 if smoke else 6240, floor=1 / 150)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 499_200,
        batch_size=32 if smoke else 2048,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=3.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(limit=32 if smoke else 10_000)
    config.evals.representations = dict(labels_per_class=16 if smoke else 0, train_limit=100_000)
    return config
