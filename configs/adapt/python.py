"""Domain-adaptive pretraining: the quickstart's GPT goes on with another Python corpus, the source of JAX.

    pretrainx train --config=configs/quickstart.py --workdir=runs/quickstart
    pretrainx train --config=configs/adapt/python.py:lora --workdir=runs/python-lora
    pretrainx eval --workdir=runs/python-lora --evals=forgetting

`:full` (the default), `:lora`, `:adapter`, `:prompt`; `:ewc` (which needs `pretrainx eval --workdir=runs/quickstart
--evals=fisher`), `:l2_sp`, `:distill` and `:lora_ewc` keep what the model knows of its first corpus, `:replay` reads a tenth of
it again. `:scratch` starts from random values. Hardware: 2 CPU cores, about a minute. `:smoke` is LoRA in 20 steps of a
smaller, untrained model on the standard library's source.

Reference of `:smoke` (CPython 3.11.7, jax 0.10.2, one CPU device): loss at steps 1, 5, 10, 15, 20
is 5.7630, 5.7544, 5.7084, 5.7008, 5.6963; the last ten average 5.6985, with seed 1 5.6964.
"""

import pathlib

import jax
from ml_collections import ConfigDict

# The source files of a package that is installed with this one.
CORPUS = (str(pathlib.Path(jax.__file__).parent / "_src" / "*.py"),)
LORA = dict(name="lora", rank=8, alpha=16.0, targets=".*(query|key|value|out|up|down)")
FISHER = dict(name="ewc", strength=100.0, fisher="runs/quickstart")
# How the model is changed, what protects it, the peak of the learning rate.
METHODS = {
    "full": (dict(name="full"), dict(name="none"), 1e-3),
    "scratch": (dict(name="full"), dict(name="none"), 3e-3),
    "lora": (LORA, dict(name="none"), 3e-3),
    "adapter": (dict(name="adapter", layout="pfeiffer", width=24), dict(name="none"), 3e-3),
    "prompt": (dict(name="prompt", length=16), dict(name="none"), 1e-2),
    "ewc": (dict(name="full"), FISHER, 1e-3),
    "lora_ewc": (LORA, FISHER, 3e-3),
    "l2_sp": (dict(name="full"), dict(name="l2_sp", strength=0.1), 1e-3),
    "distill": (dict(name="full"), dict(name="distill"), 1e-3),
    "replay": (dict(name="full"), dict(name="none"), 1e-3),
}


def get_config(arg=""):
    smoke, method = arg == "smoke", "lora" if arg == "smoke" else arg or "full"
    if method not in METHODS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(METHODS))
    adapt, preserve, peak = METHODS[method]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(name="autoregressive")
    config.adapt, config.preserve = dict(adapt), dict(preserve)
    config.model = dict(
        name="decoder",
        width=32 if smoke else 96,
        depth=2 if smoke else 4,
        heads=2 if smoke else 3,
        positions="rotary",
        norm="rms",
        activation="relu_squared",
        qk_norm=True,
        bias=False,
        unroll=0,
    )
    if smoke:
        config.data = dict(name="text", source="stdlib", vocab_size=320, length=128)
    else:
        config.init_from = "" if method == "scratch" else "runs/quickstart"
        text = dict(source="text", paths=CORPUS)
        shared = dict(tokenizer="runs/quickstart/data/tokenizer.json", length=128, held_out=0.05)
        config.data = dict(name="text", **text, **shared)
        if method == "replay":
            parts = (dict(name="new", weight=0.9, **text), dict(name="old", weight=0.1, source="stdlib"))
            config.data = dict(name="mixture", parts=parts, **shared)
    config.optimizer = dict(name="adamw", b2=0.99, weight_decay=0.01)
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 20, floor=0.0)
    config.train = dict(
        steps=20 if smoke else 400,
        batch_size=8 if smoke else 16,
        log_every=5 if smoke else 50,
        eval_every=0,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=400, keep=1)
    config.evals = dict(tokens=2048 if smoke else 100_000, samples=dict(prompts=("def jit(", "import jax")))
    return config
