"""Mixtral 8x7B (Jiang et al. 2024), a sparse mixture of experts, on your own text.

    pretrainx train --config=configs/lm/mixtral_8x7b.py --workdir=runs/mixtral --config.data.paths='("corpus/*.jsonl",)'

46,702,792,704 parameters with 32,000 ids, of which a token goes through 12,879,925,248: in each of 32 blocks two of eight
experts, SwiGLU of 14,336, chosen by gates that add up to one. 8 key heads, rotary base 1,000,000, rows of 8,192 tokens. The
balance coefficient is that of the released configuration (0.02, for each block here); tokens above 1.25 times an even share
of a row are dropped, `--config.model.experts.dispatch=ragged` drops none. 260B tokens, 20 for each active parameter.
`:smoke` is 20 steps of a tiny one on the standard library.
Hardware: 128 GPUs with 80 GB, or a v5p-256 slice; experts over 8 devices, the rest over all. Result: not run here.

Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 5.8154, 5.7367, 5.3715, 5.1777, 5.1411; the last ten average 5.1967, with seed 1 5.1960.
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
        mlp_width=64 if smoke else 14336,
        positions="rotary",
        rotary_base=1_000_000.0,
        norm="rms",
        activation="silu",
        gated=True,
        bias=False,
        tied=False,
        remat="none" if smoke else "full",
        experts=dict(count=8, chosen=2, capacity=1.25, balance=0.02),
    )
    if smoke:
        config.data = dict(name="text", source="stdlib", vocab_size=320, length=64, held_out=0.02)
    else:
        config.data = dict(name="text", source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32000, length=8192)
        config.data.update(held_out=0.0005)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, decays=("kernel", "embedding", "head"))
    config.schedule = dict(name="cosine", peak=3e-3 if smoke else 3e-4, warmup=5 if smoke else 2000, floor=0.1)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.mesh = dict(data=1, fsdp=-1, expert=1 if smoke else 8)
    config.train = dict(
        steps=20 if smoke else 62000,  # 260B tokens
        batch_size=8 if smoke else 512,  # 4.2M tokens
        microbatches=1 if smoke else 4,
        log_every=5 if smoke else 10,
        eval_every=0 if smoke else 1000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=500, keep=2)
    config.evals = dict(tokens=2048 if smoke else 10_000_000, batch_size=8 if smoke else 128)
    return config
