"""SigLIP after Zhai et al. 2023 (arXiv:2303.15343): ViT-B/16, batch 32,768.

    pretrainx train --config=configs/image_text/siglip_b16.py --workdir=runs/siglip --config.data.paths='("pairs/*.tar",)'

The pairs are tar shards (webdataset's layout: KEY.jpg and KEY.txt) with a tokenizer.json, both your own.
Hardware: 64 accelerators with 32 GB, or fewer with more `config.train.microbatches` (the loss is that of the whole batch all
the same). `:smoke` is 20 steps of a tiny one on captioned shapes generated in code.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 10.3852, 5.3368, 4.5536, 4.4463, 4.4503; the last ten average 4.4609, with seed 1 4.4792.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="siglip")
    config.model = dict(name="dual_encoder", embedding=768, projection="text")
    config.model.image = dict(name="vit", patch=16, width=768, depth=12, heads=12, class_token=False, pool="map")
    config.model.image.update(activation="gelu_tanh")
    config.model.text = dict(width=768, depth=12, heads=12, causal=False, pool="last", activation="gelu_tanh")
    config.model.text.update(norm_epsilon=1e-6)
    if smoke:
        config.model.update(embedding=32)
        config.model.image.update(patch=4, width=32, depth=2, heads=4)
        config.model.text.update(width=32, depth=2, heads=4)
    config.data = dict(name="pairs", source="shapes", size=16, limit=512, vocab_size=320, length=16)
    if not smoke:
        config.data = dict(name="pairs", source="tar", paths=("pairs/*.tar",), size=224, held_out=0.002)
        config.data.update(tokenizer="siglip/tokenizer.json", length=64, captions=5, specials=())
    config.optimizer = dict(name="adamw", b2=0.95, weight_decay=1e-4)
    config.schedule = dict(name="cosine", peak=1e-3, warmup=5 if smoke else 20_000, floor=0.0)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 275_000,
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
