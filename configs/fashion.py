"""Every way to learn from pictures at a size for two CPU cores: Fashion-MNIST, 60,000 grey pictures of 28 x 28.

    pretrainx data fetch fashion-mnist --dest data
    pretrainx train --config=configs/fashion.py:simclr --workdir=runs/fashion-simclr

`:simclr` (the default), `:moco`; `:mae`, `:beit` (which needs the run of `:tokenizer`, in runs/fashion-tokenizer);
`:supervised`, `:supervised_vit` and `:supervised_beit` are the networks of the first two, of MAE and of BEiT trained with all
labels. `:smoke` is 20 steps on pictures generated in code. Hardware: 2 CPU cores, at most 15 minutes each.
"""

from ml_collections import ConfigDict

RESNET = dict(name="resnet", stages=(1, 1, 1), width=16, bottleneck=True, stem="large")  # 256 features
VIT = dict(name="vit", patch=7, width=128, depth=4, heads=4, positions="sincos", unroll=0, pool="mean")
# A visual tokenizer halves pictures: its patches are powers of two, and so are BEiT's.
SMALLER = VIT | dict(patch=4, width=64, heads=2, positions="relative")
GREY = dict(name="grey")
# Crops that keep most of a garment and its proportions, and more change of brightness and contrast.
VIEWS = GREY | dict(crop=(0.4, 1.0), aspect=(0.9, 1.1), jitter=(0.6, 0.6, 0.0, 0.0))
MOMENTUM = dict(momentum=0.99)

# The objective, the model, the peak of the learning rate, and steps of 256 pictures: 2,400 are ten epochs.
PARADIGMS = {
    "simclr": (dict(temperature=0.1, views=VIEWS, hidden=(128,), out=64), RESNET, 4e-3, 3000),
    "moco": (dict(queue=2048, views=VIEWS, hidden=128, out=64, **MOMENTUM), RESNET, 4e-3, 2400),
    "supervised": (dict(name="classification", augment=GREY), RESNET, 2e-3, 2400),
    "supervised_vit": (dict(name="classification", augment=GREY), VIT, 1e-3, 2400),
    "supervised_beit": (dict(name="classification", augment=GREY), SMALLER, 1e-3, 2400),
    # Brightness tells garments apart: the pixels themselves are recovered, not those of patches made alike.
    "mae": (
        dict(
            normalise_pixels=False,
            decoder_width=64,
            decoder_depth=2,
            decoder_heads=2,
            augment=dict(name="mae", crop=(0.5, 1.0)),
        ),
        VIT,
        2e-3,
        3600,
    ),
    "beit": (
        dict(tokenizer="runs/fashion-tokenizer", min_block=4),
        SMALLER | dict(mask_token=True),
        2e-3,
        2400,
    ),
    "tokenizer": (dict(name="vq_vae"), dict(name="visual_tokenizer", codes=256, patch=4, width=32), 2e-3, 1000),
}


def get_config(arg=""):
    smoke, paradigm = arg == "smoke", "simclr" if arg in ("", "smoke") else arg
    if paradigm not in PARADIGMS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(PARADIGMS))
    objective, model, peak, steps = PARADIGMS[paradigm]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(dict(name=paradigm) | objective)
    config.model = dict(model)
    if smoke:
        config.model.update(width=16)
        config.data = dict(name="images", source="shapes", size=28, channels=1, limit=512)
    else:
        root = "data/fashion-mnist"
        config.data = dict(name="images", source="idx", paths=(f"{root}/train-images-idx3-ubyte.gz",))
        config.data.update(test_paths=(f"{root}/t10k-images-idx3-ubyte.gz",), held_out=0.01)
    config.optimizer = dict(name="adamw", b2=0.99, weight_decay=0.05)
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 200)
    config.train = dict(
        steps=20 if smoke else steps,
        batch_size=64 if smoke else 256,
        log_every=5 if smoke else 50,
        eval_every=0,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=1000, keep=1)
    config.evals = dict(limit=64 if smoke else 2048)
    config.evals.representations = dict(
        labels_per_class=20 if smoke else 100, seeds=1 if smoke else 3, probe="logistic"
    )
    return config
