"""T5 1.0 (Raffel et al. 2020), small, base and 11B: span corruption with an encoder-decoder.

    pretrainx train --config=configs/seq2seq/t5_small.py --workdir=runs/t5 --config.data.paths='("corpus/*.jsonl",)'

Variants: `:base` (223M), `:11b`, and `:smoke`, 20 steps of a tiny one on the standard library. Parameters with the published
table of 32,128 rows: 60,506,624, 222,903,552 and 11,307,321,344. 568 tokens of text become 512 of source and 114 of targets.
Hardware: one node of 8 GPUs, some hours for 2^16 steps of small; a v5p-128 slice for 11B, sharded over all devices.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 6.1504, 4.1686, 4.0142, 3.8191, 3.5648; the last ten average 3.7584, with seed 1 3.6691.
"""

from ml_collections import ConfigDict

# width, depth, heads, mlp_width
SIZES = {
    "": (512, 6, 8, 2048),
    "base": (768, 12, 12, 3072),
    "11b": (1024, 24, 128, 65536),
    "smoke": (48, 2, 2, 96),
}


def get_config(arg=""):
    if arg not in SIZES:
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use one of " + ", ".join(filter(None, SIZES)))
    smoke = arg == "smoke"
    width, depth, heads, mlp_width = SIZES[arg]
    config = ConfigDict()
    config.objective = dict(name="span_corruption", density=0.15, mean_span=3.0)
    config.model = dict(name="encoder_decoder", width=width, depth=depth, heads=heads, mlp_width=mlp_width)
    config.model.update(positions="relative", norm_first=True, norm="rms", norm_epsilon=1e-6, embedding_norm=False)
    config.model.update(activation="relu", bias=False, scaled_attention=False, scaled_logits=True, initial="fan_in")
    config.model.update(vocab_multiple=128, dropout=0.0 if smoke else 0.1)
    if arg == "11b":  # heads of 128, far wider together than the model
        config.model.update(head_dim=128, remat="full")
        config.mesh = dict(data=1, fsdp=-1)
    config.data = dict(name="text", length=64 if smoke else 512, sentinels=100)
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32100, held_out=0.001)
    config.optimizer = dict(name="adafactor")
    config.schedule = dict(name="inverse_sqrt", peak=1e-2, warmup=5 if smoke else 10_000, ramp=False)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 65_536,
        batch_size=16 if smoke else 2048 if arg == "11b" else 128,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 2000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000)
    return config
