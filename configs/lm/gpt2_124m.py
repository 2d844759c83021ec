"""GPT-2 (Radford et al. 2019), its three larger sizes and one of GPT-3's (Brown et al. 2020), on your own text.

    pretrainx train --config=configs/lm/gpt2_124m.py --workdir=runs/gpt2 --config.data.paths='("corpus/*.jsonl",)'

Variants: `:medium` (355M), `:large` (774M), `:xl` (1.6B), `:6.7b` (GPT-3 6.7B with dense attention, rows of 2,048 tokens), and
`:smoke`, 20 steps of a tiny one on the standard library.
Parameters with the published vocabulary of 50,257: 124,439,808; 354,823,168; 774,030,080; 1,557,611,200; 6,658,404,352.
Hardware: one node of 8 GPUs with 80 GB; for `:large` and `:xl` add --config.mesh.data=1 --config.mesh.fsdp=-1; for `:6.7b` a
v5e-256 slice or 64 such GPUs, over all of which its parameters and moments are sharded.
Result: 10B tokens of web text bring the smallest to about 3.3 nats per token (nanoGPT, llm.c); not repeated here.
"""

from ml_collections import ConfigDict

# width, depth, heads, peak rate (Brown et al. 2020, table 2.1)
SIZES = {
    "": (768, 12, 12, 6e-4),
    "medium": (1024, 24, 16, 3e-4),
    "large": (1280, 36, 20, 2.5e-4),
    "xl": (1600, 48, 25, 2e-4),
    "6.7b": (4096, 32, 32, 1.2e-4),
    "smoke": (32, 2, 2, 3e-3),
}


def get_config(arg=""):
    if arg not in SIZES:
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use one of " + ", ".join(filter(None, SIZES)))
    smoke = arg == "smoke"
    width, depth, heads, peak = SIZES[arg]
    config = ConfigDict()
    config.model = dict(name="decoder", width=width, depth=depth, heads=heads)
    if smoke:
        config.data = dict(name="text", source="stdlib", vocab_size=320, length=64, held_out=0.02)
    else:
        # A tokenizer of its own; name a tokenizer.json (data.tokenizer) to use GPT-2's.
        config.data = dict(name="text", source="jsonl", paths=("corpus/*.jsonl",), vocab_size=50257, length=1024)
        config.data.update(held_out=0.001)
    if arg == "6.7b":
        config.data.length = 2048
        config.model.remat = "full"
        config.mesh = dict(data=1, fsdp=-1)
    rows = 8 if smoke else 1024 if arg == "6.7b" else 512
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.95, weight_decay=0.1, decays=("kernel", "embedding"))
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 700, floor=0.1)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 63500 if arg == "6.7b" else 19073,  # 133B tokens, 20 per parameter, or 10.0B
        batch_size=rows,  # 2.1M tokens or 0.5M
        microbatches=4 if rows == 512 else 1,
        log_every=5 if smoke else 10,
        eval_every=0 if smoke else 1000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=1000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 10_000_000, batch_size=min(rows, 1024 if arg == "6.7b" else 128))
    return config
