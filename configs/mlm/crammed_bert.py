"""An encoder for one GPU and one day, after Geiping and Goldstein 2023 ("Cramming", arXiv:2212.14034).

    pretrainx train --config=configs/mlm/crammed_bert.py --workdir=runs/crammed --config.data.paths='("corpus/*.jsonl",)'

Pre-LN, gated GELU, no biases, scaled sinusoids, no dropout, rows of 128 tokens without marks, a quarter of the tokens
recovered, only these read by the head, one cycle of the rate up and down. `:smoke` is 20 steps of a tiny one on the standard
library. Hardware: one GPU with 48 GB for a day, or two hours on a node of eight.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 5.5365, 5.2260, 4.4247, 4.0869, 3.8806; the last ten average 4.0288, with seed 1 4.1970.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="masked_lm", mask_fraction=0.25, special_tokens=False)
    config.model = dict(name="encoder", width=768, depth=16, heads=12, mlp_width=3072)
    if smoke:
        config.model.update(width=48, depth=2, heads=2, mlp_width=96)
    config.model.update(norm_first=True, gated=True, bias=False, positions="sinusoidal", head="linear")
    config.data = dict(name="text", length=64 if smoke else 128, specials=("mask",))
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32768, held_out=0.001)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.98, epsilon=1e-12, weight_decay=0.01)
    config.schedule = dict(name="linear", peak=3e-3 if smoke else 1e-3, warmup=5 if smoke else 30_000)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 60_000,
        batch_size=16 if smoke else 4096,
        microbatches=1 if smoke else 16,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 2000,
        grad_clip=0.5,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000, batch_size=16 if smoke else 256)
    return config
