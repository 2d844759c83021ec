"""LLaMA 3 (Grattafiori et al. 2024): 8B, 70B and 405B, on your own text.

    pretrainx train --config=configs/lm/llama_8b.py --workdir=runs/llama_8b --config.data.paths='("corpus/*.jsonl",)'

8 key heads, SwiGLU, rotary base 500,000, rows of 8,192 tokens. With 128,256 ids 8,030,261,248 parameters, as `:70b`
70,553,706,496, as `:405b` 405,853,388,800. 20 tokens per parameter (the published models saw 15T). `:smoke` is 20 steps of a
tiny one on the standard library. Hardware: 64 GPUs with 80 GB, or a v5p-128 slice; a v5p-1024 for 70B, a v5p-12288 for 405B
(`pretrainx plan` tells what fits). Parameters and moments are sharded over all devices. Result: not run here.
"""

from ml_collections import ConfigDict

# width, depth, heads, key heads, MLP width, peak rate (table 3); steps, their rows and microbatches
SIZES = {
    "": (4096, 32, 32, 8, 14336, 3e-4, 38_000, 512, 4),
    "70b": (8192, 80, 64, 8, 28672, 1.5e-4, 168_000, 1024, 1),
    "405b": (16384, 126, 128, 8, 53248, 8e-5, 645_000, 1536, 1),
    "smoke": (32, 2, 4, 2, 112, 3e-3, 20, 8, 1),
}


def get_config(arg=""):
    if arg not in SIZES:
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use one of " + ", ".join(filter(None, SIZES)))
    smoke = arg == "smoke"
    width, depth, heads, kv_heads, mlp_width, peak, steps, rows, microbatches = SIZES[arg]
    config = ConfigDict()
    config.model = dict(
        name="decoder",
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=kv_heads,
        mlp_width=mlp_width,
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
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 2000, floor=0.1)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.mesh = dict(data=3, fsdp=-1, tensor=8) if arg == "405b" else dict(data=1, fsdp=-1)
    config.train = dict(
        steps=steps,
        batch_size=rows,  # 4.2M tokens, 8.4M, 12.6M
        microbatches=microbatches,
        log_every=5 if smoke else 10,
        eval_every=0 if smoke else 1000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=500, keep=2)
    config.evals = dict(tokens=2048 if smoke else 10_000_000, batch_size={"smoke": 8, "": 64}.get(arg, rows))
    return config
