"""A small GPT on the Python standard library's own source: nothing is downloaded, no account is needed.

    pretrainx train --config=configs/quickstart.py --workdir=runs/quickstart

Hardware: 2 CPU cores, under 3 minutes, tokenizer training included. Result (CPython 3.11, about 12 MB of text, 1.5M tokens
seen): held-out loss about 1.84 nats per token, 1.68 bits per byte; an interpolated trigram model fitted on the whole training
split reaches 2.25 nats and 2.06 bits. `:smoke` is the same in 20 steps of a smaller model.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(name="autoregressive")
    config.model = dict(
        name="decoder",
        width=32 if smoke else 96,
        depth=2 if smoke else 4,
        heads=2 if smoke else 3,
        positions="rotary",
        norm="rms",
        activation="relu_squared",
        qk_norm=True,
        bias=False,
        unroll=0,  # a scan over layers is a barrier to fusion: unrolled is faster on a CPU
    )
    # Short rows and a small batch: at this size many small steps learn more than few large ones.
    config.data = dict(name="text", source="stdlib", vocab_size=320, length=128, held_out=0.02)
    config.optimizer = dict(name="muon", b2=0.99, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=1.5e-2, warmup=5 if smoke else 50, floor=0.0)
    config.train = dict(
        steps=20 if smoke else 1500,
        batch_size=8,
        log_every=5 if smoke else 50,
        eval_every=0 if smoke else 500,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=500, keep=2)
    config.evals = dict(
        tokens=2048 if smoke else 0,
        trigram=True,
        samples=dict(
            prompts=("    def __init__(self", "import os\nimport", "class Error(Exception):"), temperature=0.6
        ),
    )
    return config
