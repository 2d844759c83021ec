"""MoCo v2 after Chen et al. 2020 (arXiv:2003.04297): ResNet-50, a queue of 65,536 keys, 200 epochs of ImageNet.

    pretrainx train --config=configs/vision/moco_v2_resnet50.py --workdir=runs/moco --config.data.paths='("imagenet/train",)'

BatchNorm in groups of 32 rows, those of the keys drawn anew, as eight GPUs with shuffling had it. Hardware: 8 accelerators with
16 GB. `:smoke` is 20 steps of a tiny one on pictures generated in code; its loss rises until the queue has been filled.
Each picture is stored once, as the middle square resized to `config.data.size` pixels, and random crops are taken from that
square: its edges are not seen, and crops have no more detail than it has. A larger `config.data.size` keeps more.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 1.4779, 4.5584, 4.1826, 3.9995, 4.2925; the last ten average 4.0871, with seed 1 4.1244.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="moco", version=2, queue=65536, momentum=0.999)
    config.model = dict(
        name="resnet", stages=(3, 4, 6, 3), bottleneck=True, stem="large", zero_residual=False, batch_group=32
    )
    if smoke:
        config.objective.update(hidden=64, out=32, queue=128, momentum=0.9)
        config.model.update(stages=(1, 1), bottleneck=False, stem="small", width=16, batch_group=16)
    config.data = dict(name="images", source="shapes", size=32, limit=512)
    if not smoke:
        config.data = dict(name="images", source="folder", paths=("imagenet/train",), size=224, held_out=0.005)
    config.optimizer = dict(name="sgd", momentum=0.9, weight_decay=1e-4, coupled=True)
    config.schedule = dict(name="cosine", peak=0.03, warmup=0, floor=0.0)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 1_000_000,
        batch_size=32 if smoke else 256,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=0.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(limit=32 if smoke else 10_000)
    config.evals.representations = dict(labels_per_class=16 if smoke else 0, train_limit=100_000)
    return config
