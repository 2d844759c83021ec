"""CLIP after Radford et al. 2021 (arXiv:2103.00020): ViT-B/32, or ViT-L/14 as `:l14`; batch 32,768.

    pretrainx train --config=configs/image_text/clip_vit_b32.py --workdir=runs/clip --config.data.paths='("pairs/*.tar",)'

The pairs are tar shards (webdataset's layout: KEY.jpg and KEY.txt) with a tokenizer.json, both your own.
Hardware: 64 accelerators with 32 GB, or fewer with more `config.train.microbatches` (the loss is that of the whole batch all
the same). `:smoke` is 20 steps of a tiny one on captioned shapes generated in code.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 4.9200, 3.5232, 3.4557, 3.4567, 3.4502; the last ten average 3.4511, with seed 1 3.4586.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "l14", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :l14 or :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="clip")
    config.model = dict(name="dual_encoder", embedding=512)
    config.model.image = dict(
        name="vit", patch=32, width=768, depth=12, heads=12, embedding_norm=True, patch_bias=False
    )
    config.model.text = dict(width=512, depth=12, heads=8)
    if arg == "l14":
        config.model.update(embedding=768)
        config.model.image.update(patch=14, width=1024, depth=24, heads=16, remat="full")
        config.model.text.update(width=768, heads=12, remat="full")
    if smoke:
        config.model.update(embedding=32)
        config.model.image.update(patch=4, width=32, depth=2, heads=4)
        config.model.text.update(width=32, depth=2, heads=4)
    config.data = dict(name="pairs", source="shapes", size=16, limit=512, vocab_size=320, length=16)
    if not smoke:
        config.data = dict(name="pairs", source="tar", paths=("pairs/*.tar",), size=224, held_out=0.002)
        config.data.update(tokenizer="clip/tokenizer.json", vocab_size=49408, length=77, captions=5)
    config.optimizer = dict(name="adamw", b2=0.98, epsilon=1e-6, weight_decay=0.2)
    peak = 1e-3 if smoke else 4e-4 if arg == "l14" else 5e-4
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 2000, floor=0.0)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 390_000,
        batch_size=32 if smoke else 32_768,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(limit=32 if smoke else 4096, batch_size=0 if smoke else 4096)
    config.evals.image_text = dict(limit=32 if smoke else 5000, templates=("a {}", "a picture of a {}"))
    config.evals.representations = dict(knn_k=5 if smoke else 20, pictures=4)
    return config
