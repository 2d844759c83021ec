"""Character models of one text file in nanoGPT's CPU setting: 4 layers, width 128, 64 characters, batch 12, 2000 steps.

    pretrainx train --config=configs/lm/characters.py --workdir=runs/characters --config.data.paths='("input.txt",)'

The small modern recipe: Muon on hidden matrices, rotary positions, RMS norms, squared ReLU, QK-norm, no biases. `:gpt2` is
GPT-2's form with AdamW, `:smoke` 20 steps on the standard library. Hardware: 2 CPU cores, about 2 minutes.
Result on tinyshakespeare (karpathy/char-rnn; first 90 % train, last 10 % held out; benchmarks/characters.py): 1.59 nats per
character, `:gpt2` 1.78; nanoGPT's README names 1.88 for its own run of this size.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    if arg not in ("", "gpt2", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: leave it out, or use :gpt2 or :smoke")
    smoke, modern = arg == "smoke", arg != "gpt2"
    config = ConfigDict()
    config.model = dict(name="decoder", width=32 if smoke else 128, depth=2 if smoke else 4, heads=4, unroll=0)
    if modern:
        config.model.update(positions="rotary", norm="rms", activation="relu_squared", qk_norm=True, bias=False)
    config.data = dict(name="text", tokenizer="bytes", length=64, held_out=0.1)
    config.data.update(dict(source="stdlib") if smoke else dict(source="text", paths=("input.txt",)))
    config.optimizer = dict(name="muon" if modern else "adamw", b2=0.99, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=1.5e-2 if modern else 3e-3, warmup=5 if smoke else 100, floor=0.0)
    config.train = dict(steps=20 if smoke else 2000, batch_size=12, log_every=5 if smoke else 100, grad_clip=1.0)
    config.checkpoint = dict(every=1000, keep=1)
    config.evals = dict(tokens=2048 if smoke else 0)
    return config
