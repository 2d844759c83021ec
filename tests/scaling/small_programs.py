"""Small unrolled runs of every paradigm, and their forward and backward passes."""

import jax

from pretrainx.runs import assumed
from pretrainx.runs.recipe import parse
from pretrainx.training import state as states

ROWS, WIDE = 4, 1024
STACK = {"width": WIDE, "depth": 2, "heads": 8, "unroll": 0, "attention": "xla"}
TEXT = {"name": "text", "source": "stdlib", "tokenizer": "bytes", "length": 64, "sentinels": 40}
TEXT |= {"specials": ("mask", "cls", "sep", "bos", "regular", "extreme", "sequential")}
PICTURES = {"name": "images", "source": "shapes", "size": 32}
PAIRS = {"name": "pairs", "source": "shapes", "length": 24}
DECODER, ENCODER, BOTH = ({"name": name, **STACK} for name in ("decoder", "encoder", "encoder_decoder"))
VIT = {"name": "vit", **STACK, "patch": 4}
RESNET = {"name": "resnet", "stages": (1, 1, 1), "bottleneck": True, "width": 64}
NO_BATCH = {"head_norm": "none"}
TOWERS = {"name": "dual_encoder", "image": VIT, "text": STACK, "embedding": 256}
PARADIGMS = {
    "one block, autoregressive": (DECODER | {"depth": 1}, TEXT, {}),
    "autoregressive": (DECODER, TEXT, {}),
    "modern autoregressive": (
        DECODER | {"gated": True, "kv_heads": 2, "bias": False, "norm": "rms", "positions": "rotary", "tied": False},
        TEXT,
        {},
    ),
    "prefix_lm": (DECODER, TEXT, {}),
    "masked_lm": (ENCODER, TEXT, {}),
    "masked_lm, all tokens": (ENCODER, TEXT, {"gather": False}),
    "span_corruption": (BOTH, TEXT, {}),
    "span_corruption, a decoder": (DECODER | {"max_length": 128}, TEXT, {}),
    "denoising": (BOTH | {"decoder_depth": 1}, TEXT, {}),
    "prefix_lm, two stacks": (BOTH, TEXT, {}),
    "mixture_of_denoisers": (BOTH, TEXT, {}),
    "classification": (VIT, PICTURES, {}),
    "mae": (VIT, PICTURES, {"decoder_width": 512, "decoder_depth": 1, "decoder_heads": 4}),
    "beit": (VIT | {"mask_token": True, "patch": 8}, PICTURES, {"tokenizer": "nowhere", "min_block": 2}),
    "simclr": (VIT, PICTURES, NO_BATCH),
    "moco": (VIT, PICTURES, {"queue": 512}),
    "moco_v3": (VIT, PICTURES, NO_BATCH),
    "byol": (VIT, PICTURES, NO_BATCH),
    "simsiam": (VIT, PICTURES, NO_BATCH),
    "dino": (VIT, PICTURES, {"prototypes": 2048, "local_crops": 2, "local": {"name": "dino_local", "size": 16}}),
    "simclr, a ResNet": (RESNET, PICTURES, {}),
    "vq_vae": ({"name": "visual_tokenizer", "width": 512}, PICTURES, {}),
    "dvae": ({"name": "visual_tokenizer", "width": 512, "kind": "logits"}, PICTURES, {}),
    "clip": (TOWERS, PAIRS, {}),
    "siglip": (TOWERS | {"text": STACK | {"causal": False, "pool": "last"}}, PAIRS, {}),
    "coca": ({"name": "coca", "image": VIT, "text": STACK | {"decoder_depth": 1}, "queries": 8}, PAIRS, {}),
}

CONVOLUTIONS = ("simclr, a ResNet", "vq_vae", "dvae")


def recipe_of(name, **sections):
    """(a recipe, what its data would say of themselves)"""
    model, data, objective = PARADIGMS[name]
    called = name.removeprefix("one block, ").split(", ")[0].removeprefix("modern ")
    given = {"data": data, "model": model, "objective": {"name": called} | objective}
    given |= {"schedule": {"name": "cosine", "warmup": 1}, "train": {"steps": 5, "batch_size": ROWS}}
    about, found, _ = assumed.about(parse(given | sections))
    return found, about


def traced(objective, rows=ROWS):
    """Value and gradient of a batch's loss as jax.jit traces it; what `observe` does is not part of it."""
    layout = states.layout(objective, rows)

    def observed():
        batch = states.example_batch(objective, rows)
        keys = objective.row_keys(jax.random.key(0), batch)
        return objective.observe_rows(keys, batch, 0), keys

    def loss(params, extras, observation, keys):
        found = objective.encode(params, extras, observation, keys, 0, train=True)
        totals = dict(found.totals)
        if found.representations:
            totals |= objective.couple(params, extras, found.representations, observation, 0).totals
        return sum(totals.values())

    return jax.jit(jax.value_and_grad(loss)).trace(layout.params, layout.extras, *jax.eval_shape(observed))
