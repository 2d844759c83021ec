"""Compute-optimal sizes of small models of molecules: an isoFLOP study on MOSES (1.6M SMILES, 58M characters; Polykovskiy et
al. 2020), five budgets a factor of 3 apart, five sizes each.

    pretrainx data fetch moses --dest=data
    pretrainx scaling plan --config=configs/scaling/smiles.py --workdir=runs/smiles --prepare
    pretrainx scaling run --workdir=runs/smiles --workers=2

`:autoregressive` (the default) and `:masked_lm`; `:smoke` is two budgets of three tiny sizes on the standard library's source.
Every figure is a key: --config.study.smallest=1e12, --config.study.count=5, --config.study.tokens_per_parameter=10.
Hardware: 2 CPU cores, under an hour; benchmarks/ladder.py runs it and predicts its largest budget from the rest. Models are of
bytes, so N counts tables of 258 ids. Rates were tuned at 3e11 and 9e11 FLOPs and widths 16 to 96. A masked model reads whole
molecules, told apart by segments: in rows cut from one stream its loss falls late and at another step in each run, and no law
holds (1.13 to 1.35 nats at 9e11 FLOPs, where whole molecules reach 0.57).
"""

from ml_collections import ConfigDict

# The objective, the model, what the data and a step are, the least budget and its guessed tokens per parameter.
PARADIGMS = {
    "autoregressive": (dict(name="autoregressive"), dict(name="decoder"), dict(), 8, 1e11, 50.0),
    "masked_lm": (
        dict(name="masked_lm", special_tokens=False),
        dict(name="encoder", norm_first=True, embedding_norm=False, norm_epsilon=1e-5, head="linear"),
        dict(specials=("mask",), packing="documents", width=128),
        4,
        7e10,
        130.0,
    ),
}


def get_config(arg=""):
    smoke, paradigm = arg == "smoke", "autoregressive" if arg in ("", "smoke") else arg
    if paradigm not in PARADIGMS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(PARADIGMS))
    objective, model, data, rows, smallest, tokens_per_parameter = PARADIGMS[paradigm]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(objective)
    # The model that others are scaled from, in width alone: heads of 8.
    config.model = dict(model, width=64, depth=3, heads=8, positions="rotary", norm="rms", activation="relu_squared")
    config.model.update(qk_norm=True, bias=False, unroll=0, vocab_multiple=2)
    config.data = dict(name="text", tokenizer="bytes", length=64 if smoke else 128, held_out=0.02)
    config.data.update(dict(source="stdlib") if smoke else dict(source="jsonl", paths=("data/moses/train.jsonl",)))
    config.data.update(data)
    config.optimizer = dict(name="muon", b2=0.99, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=1.5e-2, warmup=5 if smoke else 50, floor=0.0)
    # What the study sets for each run: steps, the warm-up, width, depth and heads.
    config.train = dict(steps=20 if smoke else 1000, batch_size=rows, log_every=5 if smoke else 50, grad_clip=1.0)
    config.checkpoint = dict(every=500, keep=1)
    config.evals = dict(tokens=2048 if smoke else 131_072, batch_size=8 if smoke else 64)
    config.study = dict(kind="isoflop", smallest=smallest, count=5, factor=3.0, sizes=5, spread=3.0, rule="width")
    config.study.update(tokens_per_parameter=tokens_per_parameter, warmup=0.05)
    config.study.rate = dict(name="power", parameters=60e3, rate=7e-3, rate_exponent=-0.25)
    if smoke:
        config.model.update(width=32, depth=2, heads=4)
        config.study.update(smallest=3e9, count=2, sizes=3, spread=2.0, tokens_per_parameter=2.0, rule="aspect")
        config.study.rate = dict(name="constant")
    return config
