"""A small GPT on the Python standard library's own source: nothing is downloaded.

    pretrainx train --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :smoke")
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(name="autoregressive")
    config.model = dict(name="decoder", width=128, depth=4, heads=4, unroll=0)
    config.data = dict(name="text", source="stdlib", vocab_size=512, length=256, held_out=0.02)
    config.optimizer = dict(name="adamw", b2=0.99, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=3e-3, warmup=40)
    config.train = dict(steps=600, batch_size=16, log_every=20, eval_every=200)
    config.checkpoint = dict(every=200, keep=2)
    config.evals = dict(trigram=True, samples=dict(prompts=("def ", "import os\n", "class ")))
    if arg == "smoke":
        config.model = dict(name="decoder", width=32, depth=2, heads=2, unroll=0)
        config.train = dict(steps=20, batch_size=8, log_every=5, eval_every=0)
        config.schedule.warmup = 5
    return config
