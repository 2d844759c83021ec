"""T5 1.1 base (Shazeer 2020, and Raffel et al.'s later release): gated GELU, a head of its own, no dropout.

    pretrainx train --config=configs/seq2seq/t5_base_v1_1.py --workdir=runs/t5 --config.data.paths='("corpus/*.jsonl",)'

248M parameters with the published table of 32,128 rows. `:smoke` is 20 steps of a tiny one on the standard library.
Hardware: one GPU with 80 GB for half a day, after nanoT5 (Nawrot 2023, arXiv:2309.02373): 2^16 steps of 128 rows reach 1.95 to
2.0 nats per target token on C4 there; not repeated here. As there the rate falls as a cosine, which beats 1 / sqrt(step).
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 6.2033, 4.1496, 3.8866, 3.5014, 3.1474; the last ten average 3.4164, with seed 1 3.3358.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="span_corruption", density=0.15, mean_span=3.0)
    config.model = dict(name="encoder_decoder", width=768, depth=12, heads=12, mlp_width=2048)
    if smoke:
        config.model.update(width=48, depth=2, heads=2, mlp_width=128)
    config.model.update(positions="relative", norm_first=True, norm="rms", norm_epsilon=1e-6, embedding_norm=False)
    config.model.update(activation="gelu_tanh", gated=True, bias=False, tied=False, scaled_attention=False)
    config.model.update(initial="fan_in", vocab_multiple=128)
    config.data = dict(name="text", length=64 if smoke else 512, sentinels=100)
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32100, held_out=0.001)
    config.optimizer = dict(name="adafactor")
    config.schedule = dict(name="cosine", peak=2e-2, warmup=5 if smoke else 10_000, floor=1e-3)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 65_536,
        batch_size=16 if smoke else 128,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 2000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000)
    return config
