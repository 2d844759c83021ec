"""A LLaMA of 1.1B parameters in TinyLlama's shape (Zhang et al. 2024), on your own text.

    pretrainx train --config=configs/lm/llama_1b.py --workdir=runs/llama_1b --config.data.paths='("corpus/*.jsonl",)'

Grouped-query attention (4 key heads), SwiGLU, RMS norms, rotary positions, untied head: 1,100,048,384 parameters with 32,000
ids. 22B tokens, 20 per parameter. `:smoke` is 20 steps of a tiny one on the standard library.
Hardware: 8 GPUs with 80 GB, or a v5e-64 slice; parameters and moments are sharded over all devices. Result: not run here.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.model = dict(
        name="decoder",
        width=32 if smoke else 2048,
        depth=2 if smoke else 22,
        heads=4 if smoke else 32,
        kv_heads=2 if smoke else 4,
        mlp_width=64 if smoke else 5632,
        positions="rotary",
        norm="rms",
        activation="silu",
        gated=True,
        bias=False,
        tied=False,
        remat="none" if smoke else "weight_dots",
    )
    if smoke:
        config.data = dict(name="text", source="stdlib", vocab_size=320, length=64, held_out=0.02)
    else:
        config.data = dict(name="text", source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32000, length=2048)
        config.data.update(held_out=0.001)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, decays=("kernel", "embedding", "head"))
    config.schedule = dict(name="cosine", peak=3e-3 if smoke else 4e-4, warmup=5 if smoke else 2000, floor=0.1)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.mesh = dict(data=1, fsdp=-1)
    config.train = dict(
        steps=20 if smoke else 10500,  # 22B tokens
        batch_size=8 if smoke else 1024,  # 2.1M tokens
        microbatches=1 if smoke else 8,
        log_every=5 if smoke else 10,
        eval_every=0 if smoke else 1000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=500, keep=2)
    config.evals = dict(tokens=2048 if smoke else 10_000_000, batch_size=8 if smoke else 128)
    return config
