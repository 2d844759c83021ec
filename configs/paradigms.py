"""Every way to learn from text at the quickstart's size, on its corpus: equal parameters, equal tokens read.

    pretrainx train --config=configs/paradigms.py:masked_lm --workdir=runs/masked_lm

`:autoregressive`, `:masked_lm` (the default), `:span_corruption`, `:denoising`, `:prefix_lm`, `:mixture`; `:smoke` is 20 steps
of a smaller masked language model. 0.48M parameters, 10.2M tokens of the Python standard library's source. Hardware: 2 CPU
cores, at most 10 minutes each. `benchmarks/paradigms.py` runs them beside a trigram model and beside models that were given
shuffled targets; README has its table. Losses of different paradigms answer different questions: they do not compare.

Hidden spans are recovered in short rows: a decoder learns nothing of its source until it has found where in it a span belongs,
which takes about four times as many tokens in rows of 128 (hidden tokens right after 5.1M, 10.2M and 20.5M tokens: 0.24, 0.26
and 0.41; in rows of 34 0.38 after 5.1M).
"""

from ml_collections import ConfigDict

# The objective, the model, how long rows are and how many a step has: 2,048 tokens of text, 2,040 for 60 rows of 34.
PARADIGMS = {
    "autoregressive": (dict(name="autoregressive"), "decoder", 128, 16),
    "masked_lm": (dict(name="masked_lm", special_tokens=False), "encoder", 128, 16),
    "span_corruption": (dict(name="span_corruption"), "encoder_decoder", 32, 60),
    "denoising": (dict(name="denoising"), "encoder_decoder", 130, 16),
    "prefix_lm": (dict(name="prefix_lm"), "decoder", 128, 16),
    "mixture": (dict(name="mixture_of_denoisers"), "encoder_decoder", 32, 60),
}


def get_config(arg=""):
    smoke, paradigm = arg == "smoke", "masked_lm" if arg in ("", "smoke") else arg
    if paradigm not in PARADIGMS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(PARADIGMS))
    objective, model, length, rows = PARADIGMS[paradigm]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(objective)
    # An encoder-decoder of 2 + 2 layers has cross-attentions too: narrower, it has as many parameters.
    width, depth, heads = (88, 2, 2) if model == "encoder_decoder" else (96, 4, 3)
    config.model = dict(
        name=model, width=32 if smoke else width, depth=2 if smoke else depth, heads=2 if smoke else heads
    )
    config.model.update(positions="rotary", norm="rms", activation="relu_squared", qk_norm=True, bias=False, unroll=0)
    if model != "decoder":
        config.model.update(norm_first=True, embedding_norm=False, norm_epsilon=1e-5)
    if model == "encoder":
        config.model.update(head="linear")
    config.data = dict(name="text", source="stdlib", vocab_size=384, length=length, held_out=0.02)
    config.data.update(specials=("mask", "bos", "regular", "extreme", "sequential"), sentinels=56)
    config.optimizer = dict(name="muon", b2=0.99, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=1.5e-2, warmup=5 if smoke else 100, floor=0.0)
    config.train = dict(
        steps=20 if smoke else 5000,
        batch_size=rows,
        log_every=5 if smoke else 50,
        eval_every=0 if smoke else 1000,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=2000, keep=1)
    config.evals = dict(tokens=2048 if smoke else 65_536)
    return config
