"""BART (Lewis et al. 2020), base and large: text infilling and sentence permutation, the original is written out again.

    pretrainx train --config=configs/seq2seq/bart_base.py --workdir=runs/bart --config.data.paths='("corpus/*.jsonl",)'

Variants: `:large` (406M), and `:smoke`, 20 steps of a tiny one on the standard library. Parameters with the published
vocabulary of 50,265: 139,420,416 and 406,291,456.
Hardware: several nodes of 8 GPUs with 80 GB (the large one saw 8,000 rows of 512 tokens a step). The paper does not state the
rate: tune it.
Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 5.4163, 5.0948, 4.1266, 3.9844, 3.7343; the last ten average 3.9307, with seed 1 3.8684.
"""

from ml_collections import ConfigDict

# width, depth of either side, heads, peak rate
SIZES = {"": (768, 6, 12, 6e-4), "large": (1024, 12, 16, 4e-4), "smoke": (48, 2, 2, 3e-3)}


def get_config(arg=""):
    if arg not in SIZES:
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use one of " + ", ".join(filter(None, SIZES)))
    smoke = arg == "smoke"
    width, depth, heads, peak = SIZES[arg]
    config = ConfigDict()
    config.objective = dict(name="denoising", infilling=0.3, poisson=3.0, permute_sentences=True)
    config.model = dict(name="encoder_decoder", width=width, depth=depth, heads=heads)
    config.model.update(position_offset=2, max_length=64 if smoke else 1024, dropout=0.0 if smoke else 0.1)
    config.data = dict(name="text", length=64 if smoke else 512, specials=("mask", "bos"))
    if smoke:
        config.data.update(source="stdlib", tokenizer="bytes", held_out=0.02)
    else:
        # A tokenizer of its own; name a tokenizer.json (data.tokenizer) to use BART's.
        config.data.update(source="jsonl", paths=("corpus/*.jsonl",), vocab_size=50265, held_out=0.001)
    config.optimizer = dict(name="adamw", b1=0.9, b2=0.999, epsilon=1e-6, weight_decay=0.01)
    config.optimizer.update(decays=("kernel", "head", "embedding"))
    config.schedule = dict(name="linear", peak=peak, warmup=5 if smoke else 10_000)
    config.precision = dict(compute="float32" if smoke else "bfloat16")
    config.train = dict(
        steps=20 if smoke else 500_000,
        batch_size=16 if smoke else 2048,
        microbatches=1 if smoke else 8,
        log_every=5 if smoke else 100,
        eval_every=0 if smoke else 5000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=5000, keep=2)
    config.evals = dict(tokens=2048 if smoke else 1_000_000, batch_size=16 if smoke else 256)
    return config
