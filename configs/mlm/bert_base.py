"""BERT (Devlin et al. 2019), base and large: masked language modelling and next-sentence prediction, post-LN.

    pretrainx train --config=configs/mlm/bert_base.py --workdir=runs/bert --config.data.paths='("corpus/*.jsonl",)'

Variants: `:large` (336M), and `:smoke`, 20 steps of a tiny one on the standard library. Parameters with the published
vocabulary of 30,522: 110,106,428 and 336,226,108 (pooler and two classes of next-sentence prediction included).
Hardware: one node of 8 GPUs with 80 GB. The paper trains a million steps of 256 rows, nine tenths of them of 128 tokens (this
recipe), the rest of 512: go on from its run with --config.data.length=512 --config.init_from.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 6.2707, 5.7691, 5.2157, 4.7462, 4.6535; the last ten average 4.7673, with seed 1 4.6258.
"""

from ml_collections import ConfigDict

# width, depth, heads
SIZES = {"": (768, 12, 12), "large": (1024, 24, 16), "smoke": (48, 2, 2)}


def get_config(arg=""):
    if arg not in SIZES:
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use one of " + ", ".join(filter(None, SIZES)))
    smoke = arg == "smoke"
    width, depth, heads = SIZES[arg]
    config = ConfigDict()
    # 19 of 128 tokens at most; one row in ten is shorter (appendix A.2 and the released data script).
    config.objective = dict(name="masked_lm", selection="exact", next_sentence=True, short_fraction=0.1)
    config.model = dict(name="encoder", width=width, depth=depth, heads=heads, types=2, pooler=True)
    config.model.update(dropout=0.0 if smoke else 0.1, max_length=64 if smoke else 512)
    config.data = dict(name="text", length=64 if smoke else 128, specials=("mask", "cls", "sep"))
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        # A tokenizer of its own; name a tokenizer.json (data.tokenizer) to use BERT's.
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=30522, held_out=0.001)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.999, epsilon=1e-6, weight_decay=0.01)
    config.optimizer.update(decays=("kernel", "head", "embedding"))
    config.schedule = dict(name="linear", peak=3e-3 if smoke else 1e-4, warmup=5 if smoke else 10_000)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 900_000,
        batch_size=16 if smoke else 256,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 10_000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=10_000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000)
    return config
