"""RoBERTa (Liu et al. 2019), base and large: BERT's encoder on full rows, masks drawn anew each time, no next sentence.

    pretrainx train --config=configs/mlm/roberta_base.py --workdir=runs/roberta --config.data.paths='("corpus/*.jsonl",)'

Variants: `:large` (355M), and `:smoke`, 20 steps of a tiny one on the standard library. Parameters with the published
vocabulary of 50,265: 124,697,433.
Hardware: several nodes of 8 GPUs with 80 GB (batches of 8,192 rows of 512 tokens); for fewer raise config.train.microbatches.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 5.6110, 5.1392, 4.2943, 4.1879, 3.8614; the last ten average 4.1152, with seed 1 3.9725.
"""

from ml_collections import ConfigDict

# width, depth, heads, peak rate (table 9; the large one warms up for longer)
SIZES = {"": (768, 12, 12, 6e-4), "large": (1024, 24, 16, 4e-4), "smoke": (48, 2, 2, 3e-3)}


def get_config(arg=""):
    if arg not in SIZES:
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use one of " + ", ".join(filter(None, SIZES)))
    smoke = arg == "smoke"
    width, depth, heads, peak = SIZES[arg]
    config = ConfigDict()
    config.objective = dict(name="masked_lm", selection="bernoulli")
    config.model = dict(name="encoder", width=width, depth=depth, heads=heads, types=1)
    config.model.update(position_offset=2, norm_epsilon=1e-5, dropout=0.0 if smoke else 0.1)
    config.data = dict(name="text", length=64 if smoke else 512, specials=("mask", "bos"))
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        # A tokenizer of its own; name a tokenizer.json (data.tokenizer) to use RoBERTa's.
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=50265, held_out=0.001)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.98, epsilon=1e-6, weight_decay=0.01)
    config.optimizer.update(decays=("kernel", "head", "embedding"))
    config.schedule = dict(name="linear", peak=peak, warmup=5 if smoke else 30_000 if arg == "large" else 24_000)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 500_000,
        batch_size=16 if smoke else 8192,
        microbatches=1 if smoke else 8,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=0.0 if not smoke else 1.0,
    )
    config.checkpoint = dict(every=5000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000, batch_size=16 if smoke else 256)
    return config
