"""Pictures and words at a size for two CPU cores: Noto emoji, 3,786 pictures of 64 x 64 with names and keywords.

    pretrainx data fetch emoji --dest data
    pretrainx train --config=configs/image_text/emoji.py:clip --workdir=runs/emoji-clip

`:clip` (the default), `:siglip`, `:coca`; one emoji in ten is held out, its variants of skin tone with it. `:smoke` is 20
steps on captioned shapes generated in code. Hardware: 2 CPU cores, at most 15 minutes each. Recall at 5 among the 354 held-out
pictures (benchmarks/emoji.py): 0.43 and 0.45 with CLIP, 0.45 and 0.46 with SigLIP; chance is 0.014. Only the words of CLASSES
were chosen after a look at held-out pictures; there is no third split.
"""

from ml_collections import ConfigDict

RESNET = dict(name="resnet", stages=(1, 1, 1), width=32, stem="large")
VIT = dict(name="vit", patch=8, width=128, depth=4, heads=4, class_token=False, pool="mean", unroll=0)
TEXT = dict(width=128, depth=3, heads=4, unroll=0)
# What is done to a picture: emoji are drawn in one way each, so a little of much is needed for others of their kind.
AUGMENT = dict(name="clip", crop=(0.6, 1.0), flip=0.5, jitter_probability=0.8, jitter=(0.2, 0.2, 0.2, 0.02))

# The categories (Activities, Animals & Nature, Component, ...) in words that captions are made of, in the data's order.
CLASSES = (
    *("sport, game, music", "animal, nature, plant", "skin tone, hair style", "flag, nation, country, banner"),
    *("food, drink, fruit", "tool, clothes, office, object", "person, man, woman, hand"),
    *("face, smile, emotion, heart", "symbol, arrow, sign, shape", "vehicle, transportation, building, place"),
)

# The objective, the model, the peak of the learning rate, and steps.
PARADIGMS = {
    "clip": (dict(), dict(name="dual_encoder", image=RESNET, text=TEXT, embedding=128), 1e-3, 300),
    "siglip": (
        dict(begin=True),
        dict(name="dual_encoder", image=RESNET, text=TEXT | dict(causal=False, pool="last"), embedding=128),
        1e-3,
        300,
    ),
    "coca": (dict(), dict(name="coca", image=VIT, text=TEXT, embedding=128, queries=16, pooler_heads=4), 1e-3, 300),
}


def get_config(arg=""):
    smoke, paradigm = arg == "smoke", "clip" if arg in ("", "smoke") else arg
    if paradigm not in PARADIGMS:
        raise ValueError(f"unknown variant {arg!r}: use :smoke or one of " + ", ".join(PARADIGMS))
    objective, model, peak, steps = PARADIGMS[paradigm]
    config = ConfigDict()
    config.seed = 0
    config.objective = dict(dict(name=paradigm, augment=AUGMENT) | objective)
    config.model = dict(model)
    config.data = dict(name="pairs", source="jsonl", paths=("data/emoji/pairs.jsonl",), size=64, channels=3)
    config.data.update(held_out=0.1, vocab_size=2048, length=48, captions=8)
    if smoke:
        config.data = dict(name="pairs", source="shapes", size=32, limit=512, vocab_size=320, length=24)
    config.optimizer = dict(name="adamw", b2=0.98, weight_decay=0.2)
    config.schedule = dict(name="cosine", peak=peak, warmup=5 if smoke else 50)
    config.train = dict(
        steps=20 if smoke else steps,
        batch_size=64 if smoke else 256,
        log_every=5 if smoke else 50,
        eval_every=0 if smoke else 100,
        grad_clip=1.0,
    )
    config.checkpoint = dict(every=1000, keep=1)
    config.evals = dict(limit=64 if smoke else 512, batch_size=64 if smoke else 128)
    # The first caption is the whole one; of the keywords most are true of many emoji.
    config.evals.image_text = dict(captions_of_each=1, templates=("{}", "a picture of {}"))
    config.evals.image_text.classes = () if smoke else CLASSES
    config.evals.representations = dict(knn_k=20)
    return config
