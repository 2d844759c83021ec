"""Sentiment of film reviews from a published encoder: MiniLM (22.7M parameters) on Rotten Tomatoes, split by film.

    pretrainx data fetch minilm-l6 --dest=data && pretrainx import --source=data/minilm-l6 --workdir=runs/minilm
    pretrainx data fetch rotten-tomatoes --dest=data
    pretrainx train --config=configs/adapt/rotten_tomatoes.py:lora --workdir=runs/rotten-lora
    pretrainx eval --workdir=runs/minilm --evals=transfer --task=configs/adapt/rotten_tomatoes.py:lora

`:full` (the default), `:lora`, `:adapter`, `:prompt`, `:prefix`, `:ia3`, `:probe`; `:scratch` is the same network from random
values. 100 labels, 50 of each class: `--config.data.labels` chooses, 0 takes all 10,000. Hardware: 2 CPU cores, about a
minute. Results, with intervals and for 10 times as many labels: benchmarks/adaptation.py, and README. `:smoke` is LoRA in 20
steps of a tiny network on docstrings of the standard library, told apart by their package: nothing is fetched.

Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 1.7967, 1.7882, 1.7368, 1.7328, 1.7172; the last ten average 1.7487, with seed 1 1.7531.
"""

from ml_collections import ConfigDict

# MiniLM-L6, as `pretrainx import` finds it.
MINILM = dict(
    name="encoder",
    width=384,
    depth=6,
    heads=12,
    mlp_width=1536,
    max_length=512,
    types=2,
    pooler=True,
    head="none",
    dropout=0.1,
    unroll=0,
)
# Each way with the peak of its learning rate: what is small, or starts at zero, takes a larger one.
METHODS = {
    "full": (dict(name="full"), 1e-4),
    "scratch": (dict(name="full"), 1e-4),
    "lora": (dict(name="lora", rank=8, alpha=16.0, targets=".*(query|value)"), 3e-3),
    "adapter": (dict(name="adapter", layout="houlsby", width=32), 1e-3),
    "prompt": (dict(name="prompt", length=20), 1e-2),
    "prefix": (dict(name="prefix", length=10), 1e-2),
    "ia3": (dict(name="ia3"), 1e-2),
    "probe": (dict(name="linear_probe"), 1e-2),
}


def get_config(arg=""):
    smoke, method = arg == "smoke", "lora" if arg == "smoke" else arg or "full"
    if method not in METHODS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(METHODS))
    adapt, peak = METHODS[method]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(name="sequence_classification", pool="mean")
    config.adapt = dict(adapt)
    config.model = dict(MINILM)
    if smoke:
        config.model.update(width=32, depth=2, heads=2, mlp_width=64, max_length=32)
        config.data = dict(name="labelled", source="stdlib", length=32, vocab_size=320, specials=("mask", "cls", "sep"))
    else:
        config.init_from = "" if method == "scratch" else "runs/minilm"
        root, tokenizer = "data/rotten-tomatoes", "runs/minilm/tokenizer.json"
        config.data = dict(name="labelled", paths=(f"{root}/train.jsonl",), test_paths=(f"{root}/test.jsonl",))
        config.data.update(group="movie", held_out=0.02, length=32, tokenizer=tokenizer, labels=50)
    config.optimizer = dict(name="adamw", b2=0.999, weight_decay=0.01)
    config.schedule = dict(name="linear", peak=peak, warmup=5 if smoke else 10)
    config.train = dict(
        steps=20 if smoke else 40,
        batch_size=8 if smoke else 32,
        log_every=5 if smoke else 20,
        eval_every=0,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=1000, keep=1)
    config.evals = dict(limit=32 if smoke else 0, batch_size=32 if smoke else 256)
    return config
