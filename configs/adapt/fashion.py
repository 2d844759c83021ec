"""Few labels on pictures: a ViT that MAE pretrained on Fashion-MNIST without labels learns its ten classes from 100 of each.

    pretrainx data fetch fashion-mnist --dest=data
    pretrainx train --config=configs/fashion.py:mae --workdir=runs/fashion-mae
    pretrainx train --config=configs/adapt/fashion.py:full --workdir=runs/fashion-few
    pretrainx eval --workdir=runs/fashion-mae --evals=transfer --task=configs/adapt/fashion.py:full

`:full` (the default) has layer-wise rates, `:unfreezing` trains block after block from the top; `:lora`, `:adapter`, `:probe`,
`:l2_sp`; `:scratch` is the same network from random values. `--config.data.labels` chooses how many. Hardware: 2 CPU cores,
about two minutes.
`:smoke` is LoRA in 20 steps of a small, untrained network on pictures generated in code.

Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 2.0609, 2.0868, 2.0832, 2.0816, 2.0900; the last ten average 2.0811, with seed 1 2.0808.
"""

from ml_collections import ConfigDict

# As configs/fashion.py has it for MAE.
VIT = dict(name="vit", patch=7, width=128, depth=4, heads=4, positions="sincos", unroll=0, pool="mean")
BY_LAYER = dict(groups=(dict(layer_decay=0.65),))
GRADUAL = dict(groups=(dict(layer_decay=1 / 2.6, unfreeze_every=60),))
# How the model is changed, what protects it, changes of the optimizer, the peak of the learning rate.
METHODS = {
    "full": (dict(name="full"), dict(name="none"), BY_LAYER, 1e-3),
    "unfreezing": (dict(name="full"), dict(name="none"), GRADUAL, 1e-3),
    "scratch": (dict(name="full"), dict(name="none"), {}, 1e-3),
    "lora": (dict(name="lora", targets=".*(query|value)"), dict(name="none"), {}, 3e-3),
    "adapter": (dict(name="adapter", layout="houlsby", width=16), dict(name="none"), {}, 3e-3),
    "probe": (dict(name="linear_probe"), dict(name="none"), {}, 1e-2),
    "l2_sp": (dict(name="full"), dict(name="l2_sp", strength=0.01), BY_LAYER, 1e-3),
}


def get_config(arg=""):
    smoke, method = arg == "smoke", "lora" if arg == "smoke" else arg or "full"
    if method not in METHODS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(METHODS))
    adapt, preserve, optimizer, peak = METHODS[method]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(name="classification", augment=dict(name="grey", crop=(0.6, 1.0)))
    config.adapt, config.preserve = dict(adapt), dict(preserve)
    config.model = dict(VIT)
    if smoke:
        config.model.update(width=16, heads=2, depth=2)
        config.data = dict(name="images", source="shapes", size=28, channels=1, limit=512, labels=30)
    else:
        config.init_from = "" if method == "scratch" else "runs/fashion-mae"
        root = "data/fashion-mnist"
        config.data = dict(name="images", source="idx", paths=(f"{root}/train-images-idx3-ubyte.gz",), labels=100)
        config.data.update(test_paths=(f"{root}/t10k-images-idx3-ubyte.gz",), held_out=0.01)
    config.optimizer = dict(name="adamw", b2=0.99, weight_decay=0.05, **optimizer)
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 30)
    config.train = dict(
        steps=20 if smoke else 300,
        batch_size=32 if smoke else 64,
        log_every=5 if smoke else 50,
        eval_every=0,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=1000, keep=1)
    config.evals = dict(limit=64 if smoke else 2048, representations=dict(knn_k=0, pictures=0, probe=()))
    return config
