"""A mixture of denoisers after UL2 (Tay et al. 2022) in one small encoder-decoder: regular spans, extreme ones, prefixes.

    pretrainx train --config=configs/seq2seq/ul2_small.py --workdir=runs/ul2 --config.data.paths='("corpus/*.jsonl",)'

Half of every step's rows have spans of 3 tokens over 15 % of the text, a quarter over half of it, a quarter is cut in two; a
mode token in front of the source tells them apart. T5 1.1's form, 77M parameters with a table of 32,128 rows. `:decoder` is
about as many in a decoder alone, which reads the source as its prefix. `:smoke` is 20 steps of a tiny one on the standard
library. Hardware: one node of 8 GPUs, some hours.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 6.2516, 5.2572, 4.4192, 4.1826, 3.8492; the last ten average 4.0099, with seed 1 4.0414.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "decoder", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :decoder or :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(
        name="mixture_of_denoisers",
        denoisers=(
            dict(name="regular", share=0.5, density=0.15, mean_span=3.0, mode="regular"),
            dict(name="extreme", share=0.25, density=0.5, mean_span=3.0, mode="extreme"),
            dict(name="sequential", share=0.25, kind="prefix", mode="sequential"),
        ),
    )
    config.model = dict(name="encoder_decoder", width=512, depth=8, heads=6, head_dim=64, mlp_width=1024)
    if smoke:
        config.model.update(width=48, depth=2, heads=2, head_dim=24, mlp_width=128)
    config.model.update(positions="relative", norm_first=True, embedding_norm=False, scaled_attention=False)
    config.model.update(initial="fan_in")
    if arg == "decoder":
        config.model = dict(name="decoder", width=512, depth=18, heads=8, mlp_width=1024, positions="rotary")
    config.model.update(norm="rms", norm_epsilon=1e-6, activation="gelu_tanh", gated=True, bias=False, tied=False)
    config.model.update(vocab_multiple=128)
    config.data = dict(name="text", length=64 if smoke else 512, sentinels=100)
    config.data.update(specials=("regular", "extreme", "sequential"))
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32100, held_out=0.001, sentinels=256)
    config.optimizer = dict(name="adafactor")
    config.schedule = dict(name="cosine", peak=1e-2, warmup=5 if smoke else 10_000, floor=1e-3)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 65_536,
        batch_size=32 if smoke else 128,  # so that a quarter divides over eight devices too
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 2000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000)
    return config
