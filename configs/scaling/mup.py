"""A small decoder with a base width, for checks of muP: does what it computes keep its size as it grows, does its best rate?

    pretrainx scaling coordcheck --config=configs/scaling/mup.py --output=runs/coordcheck --compare
    pretrainx scaling lr_transfer --config=configs/scaling/mup.py --output=runs/lr_transfer --compare
    pretrainx train --config=configs/scaling/mup.py --workdir=runs/mup --config.model.width=256 --config.model.heads=16

`:standard` is the same without a base, `:smoke` 20 steps. Bytes of the standard library. Hardware: 2 CPU cores, about 1 minute.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "standard", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :standard or :smoke")
    smoke = arg == "smoke"
    config = ConfigDict()
    # Heads of 16, which grow in number. A head of zeros would spend most of so short a run on leaving zero.
    config.model = dict(name="decoder", width=64, depth=2, heads=4, tied=False, initial_std=0.02, unroll=0)
    config.model.scaled_residual = False
    if arg != "standard":
        config.model.update(base_width=64)
    config.data = dict(name="text", source="stdlib", tokenizer="bytes", length=32)
    config.optimizer = dict(name="adamw", b2=0.95, weight_decay=0.0)
    config.schedule = dict(name="constant", peak=2.0**-9)
    config.train = dict(steps=20 if smoke else 2000, batch_size=16, log_every=5 if smoke else 100, grad_clip=0.0)
    config.checkpoint = dict(every=1000, keep=1)
    config.evals = dict(tokens=2048 if smoke else 0)
    return config
