"""A visual tokenizer, the codes that BEiT predicts: VQ-VAE with codes of 32 numbers and length 1 (Peng et al. 2022).

    pretrainx train --config=configs/vision/visual_tokenizer.py --workdir=runs/tokenizer

8192 codes, cells of 8 pixels: BEiT shows it its patches of 16 at half the resolution. Hardware: 8 accelerators with 16 GB, a
day. `:smoke` is 20 steps of a tiny one on pictures generated in code.
Each picture is stored once, as the middle square resized to `config.data.size` pixels, and random crops are taken from that
square: its edges are not seen, and crops have no more detail than it has. A larger `config.data.size` keeps more.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 2.2572, 1.1679, 1.1492, 1.0097, 1.0704; the last ten average 1.0395, with seed 1 1.0447.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="vq_vae")
    config.model = dict(name="visual_tokenizer", codes=8192, code_width=32, patch=8, width=512, blocks=4)
    if smoke:
        config.model.update(codes=32, code_width=8, patch=4, width=32, blocks=1)
    config.data = dict(name="images", source="shapes", size=32, limit=512)
    if not smoke:
        config.data = dict(name="images", source="folder", paths=("imagenet/train",), size=224, held_out=0.005)
    config.optimizer = dict(name="adamw", b2=0.99, weight_decay=1e-4)
    config.schedule = dict(name="cosine", peak=2e-3 if smoke else 4e-4, warmup=5 if smoke else 5000)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 250_000,
        batch_size=32 if smoke else 512,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=0.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(limit=32 if smoke else 10_000)
    config.evals.representations = dict(labels_per_class=16 if smoke else 0, train_limit=100_000)
    return config
