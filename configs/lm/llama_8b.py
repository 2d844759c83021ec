"""LLaMA 3 8B (Grattafiori et al. 2024), on your own text.

    pretrainx train --config=configs/lm/llama_8b.py --workdir=runs/llama_8b --config.data.paths='("corpus/*.jsonl",)'

8,030,261,248 parameters with 128,256 ids: 8 key heads, SwiGLU of 14,336, rotary base 500,000, rows of 8,192 tokens.
160B tokens, 20 per parameter; the published model saw 15T. `:smoke` is 20 steps of a tiny one on the standard library.
Hardware: 64 GPUs with 80 GB, or a v5p-128 slice; parameters and moments are sharded over all devices. Result: not run here.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.model = dict(
        name="decoder",
        width=32 if smoke else 4096,
        depth=2 if smoke else 32,
        heads=4 if smoke else 32,
        kv_heads=2 if smoke else 8,
        mlp_width=112 if smoke else 14336,
        positions="rotary",
        rotary_base=500_000.0,
        norm="rms",
        activation="silu",
        gated=True,
        bias=False,
        tied=False,
        remat="none" if smoke else "full",
    )
    if smoke:
        config.data = dict(name="text", source="stdlib", vocab_size=320, length=64, held_out=0.02)
    else:
        config.data = dict(name="text", source="jsonl", paths=("corpus/*.jsonl",), vocab_size=128256, length=8192)
        config.data.update(held_out=0.0005)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, decays=("kernel", "embedding", "head"))
    config.schedule = dict(name="cosine", peak=3e-3 if smoke else 3e-4, warmup=5 if smoke else 2000, floor=0.1)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.mesh = dict(data=1, fsdp=-1)
    config.train = dict(
        steps=20 if smoke else 38000,  # 159B tokens
        batch_size=8 if smoke else 512,  # 4.2M tokens
        microbatches=1 if smoke else 4,
        log_every=5 if smoke else 10,
        eval_every=0 if smoke else 1000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=500, keep=2)
    config.evals = dict(tokens=2048 if smoke else 10_000_000, batch_size=8 if smoke else 64)
    return config
