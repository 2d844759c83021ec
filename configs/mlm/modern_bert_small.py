"""A small encoder as one would build it today: pre-LN, rotary positions, RMS norms, SwiGLU, whole documents side by side.

    pretrainx train --config=configs/mlm/modern_bert_small.py --workdir=runs/modern --config.data.paths='("corpus/*.jsonl",)'

About 42M parameters. Documents are packed when the data are prepared and told apart by segments; 30 % of the tokens are
recovered (Wettig et al. 2023); Muon on hidden matrices. `:smoke` is 20 steps of a tiny one on the standard library.
Hardware: one node of 8 GPUs, some hours; or fewer and longer.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 5.4701, 4.5670, 3.4580, 3.1862, 3.0283; the last ten average 3.1579, with seed 1 3.2791.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    config.objective = dict(name="masked_lm", mask_fraction=0.3, special_tokens=False)
    config.model = dict(name="encoder", width=512, depth=8, heads=8, mlp_width=1408)
    if smoke:
        config.model.update(width=48, depth=2, heads=2, mlp_width=128)
    config.model.update(norm_first=True, positions="rotary", norm="rms", norm_epsilon=1e-6, activation="silu")
    config.model.update(
        gated=True, bias=False, qk_norm=True, embedding_norm=False, head="linear", unroll=0 if smoke else 1
    )
    length = 64 if smoke else 1024
    # Rows for an encoder share no token: as wide as they are long.
    config.data = dict(name="text", packing="documents", length=length, width=length, specials=("mask",))
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=32768, held_out=0.001)
    config.optimizer = dict(name="muon", b2=0.98, weight_decay=0.1)
    config.schedule = dict(name="wsd", peak=1e-2, warmup=5 if smoke else 1000)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 50_000,
        batch_size=16 if smoke else 512,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 2000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=2000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000)
    return config
