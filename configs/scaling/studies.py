"""Compute-optimal sizes of other kinds of models: isoFLOP studies of span corruption, masked autoencoders and CLIP.

    pretrainx scaling plan --config=configs/scaling/studies.py:mae --workdir=runs/mae-study --prepare
    pretrainx scaling run --workdir=runs/mae-study --workers=2

`:span_corruption` (the default) on the Python standard library's source, `:mae` and `:clip` on pictures and captions generated
in code: nothing is fetched. FLOPs are each model's own (an encoder that sees a quarter of the patches, two towers, an encoder
and a decoder), D counts tokens or pictures. `:smoke` is a tiny study of span corruption. Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict

MODERN = dict(positions="rotary", norm="rms", activation="relu_squared", qk_norm=True, bias=False, unroll=0)
VIT = dict(patch=4, width=64, depth=4, heads=8, unroll=0)
PICTURES = dict(source="shapes", size=32, limit=8192)

# The objective, the model that others are scaled from, the data, the rows of a batch, units per parameter.
KINDS = {
    "span_corruption": (
        dict(name="span_corruption"),
        dict(name="encoder_decoder", width=64, depth=2, heads=8, norm_first=True, embedding_norm=False, **MODERN),
        dict(name="text", source="stdlib", vocab_size=384, length=32, held_out=0.02, sentinels=56),
        60,
        20.0,
    ),
    "mae": (
        dict(name="mae", decoder_width=32, decoder_depth=2, decoder_heads=4),
        dict(name="vit", positions="sincos", pool="mean", **VIT),
        dict(name="images", **PICTURES),
        32,
        0.05,
    ),
    "clip": (
        dict(name="clip"),
        dict(
            name="dual_encoder",
            image=dict(name="vit", **VIT),
            text=dict(width=64, depth=2, heads=8, unroll=0),
            embedding=64,
        ),
        dict(name="pairs", vocab_size=320, length=24, **PICTURES),
        32,
        0.1,
    ),
}


def get_config(arg=""):
    smoke, kind = arg == "smoke", "span_corruption" if arg in ("", "smoke") else arg
    if kind not in KINDS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(KINDS))
    objective, model, data, rows, ratio = KINDS[kind]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(objective)
    config.model = dict(model)
    config.data = dict(data)
    config.optimizer = dict(name="muon", b2=0.99, weight_decay=0.1)
    config.schedule = dict(name="cosine", peak=1.5e-2 if kind == "span_corruption" else 2e-3, warmup=5, floor=0.0)
    if kind != "span_corruption":
        config.optimizer = dict(name="adamw", b2=0.99, weight_decay=0.05)
    # What the study sets for each run: steps, the warm-up, widths, depths and heads.
    config.train = dict(steps=20 if smoke else 1000, batch_size=rows, log_every=5 if smoke else 50, grad_clip=1.0)
    config.checkpoint = dict(every=500, keep=1)
    config.evals = dict(tokens=2048 if smoke else 65_536, limit=512)
    config.study = dict(
        kind="isoflop", smallest=3e11, count=4, sizes=5, spread=4.0, tokens_per_parameter=ratio, slack=2.0
    )
    if smoke:
        config.model.update(width=32, heads=4, depth=2)
        config.study.update(smallest=2e10, count=2, sizes=3, spread=2.0, tokens_per_parameter=4.0)
    return config
