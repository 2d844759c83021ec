"""CoCa (Yu et al. 2022) in open_clip's form: a pooler whose first output is the picture's vector, two kinds of blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

from pretrainx.core.images import Images
from pretrainx.interop import clip, pairs
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.pairs import PairModel
from pretrainx.interop.tensors import Row, norm
from pretrainx.models.coca import CocaConfig, CocaTextConfig
from pretrainx.models.layers import padded
from pretrainx.models.stack import StackConfig
from pretrainx.models.vit import VitConfig

FILE, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# Of a file without these keys.
VOCAB, LENGTH, EPSILON = 49408, 77, 1e-5
# Of the decoder's MLPs, whatever its file says: open_clip does not read that.
RATIO = 4
# How pictures are brought to the network's size, which is not followed.
SEEN = "interpolation resize_mode fill_color mode size".split()
# Other blocks than the plain one.
PLAIN = "qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc".split()


class CocaModel(PairModel):
    """Of open_clip's CoCa."""


def to_config(keys: Keys, names: Collection[str]) -> CocaModel:
    """The model of an open_clip_config.json. Raises DataError for keys and values that have no form here."""
    whole = Keys(keys.section("model_cfg"), f"{keys.where}: model_cfg")
    seen = Keys(keys.section("preprocess_cfg"), f"{keys.where}: preprocess_cfg")
    keys.finish()
    part = lambda name: Keys(whole.section(name), f"{whole.where}: {name}")
    image, text, decoder = part("vision_cfg"), part("text_cfg"), part("multimodal_cfg")
    whole.idle("custom_text", "init_logit_scale")
    whole.only("init_logit_bias", None)
    whole.only("nonscalar_logit_scale", False)
    activation = "quick_gelu" if whole.flag("quick_gelu", False) else "gelu"
    width = whole.size("embed_dim")
    common = {"activation": activation, "norm_epsilon": EPSILON}
    size, pixels, pad = image.size("image_size", 224), _pixels(seen), text.index("pad_id", 0)
    of_image, of_text = _image(image, size) | common, _text(text, decoder, width) | common
    pooler = {"queries": image.size("attn_pooler_queries", 256), "pooler_heads": image.size("attn_pooler_heads", 8)}
    if width % pooler["pooler_heads"] or pooler["queries"] < 2:
        image.refuse(
            f"attn_pooler_heads, attn_pooler_queries: {pooler['pooler_heads']} must divide {width}, 2 or more queries"
        )
    for found in (whole, image, text, decoder, seen):
        found.finish()
    of_image = VitConfig(**of_image, embedding_norm=True, patch_bias=False)
    of_text = CocaTextConfig(**of_text, shifted_class_mask=True, decoder_block="open_clip")
    model = CocaConfig(of_image, of_text, width, **pooler, pooler="shared")
    return CocaModel(model, Images(size, 3, (), *pixels), pad=pad)


def _stack(keys: Keys, width: int) -> dict[str, Any]:
    """Fields of either tower; `width` is open_clip's where the key is left out."""
    keys.only("ls_init_value", None)
    keys.only("act_kwargs", None)
    keys.only("norm_kwargs", None)
    keys.only("block_type", None, "default")
    for name in PLAIN:
        keys.only(name, False)
    keys.idle("output_tokens", "final_ln_after_pool", "pool_type")
    found = keys.size("width", width)
    ratio = keys.positive("mlp_ratio", 4.0)
    return {"width": found, "depth": keys.size("layers", 12), "mlp_width": int(found * ratio)}


def _image(keys: Keys, size: int) -> dict[str, Any]:
    """Fields of the image tower, for pictures of this side."""
    keys.only("attentional_pool", True)  # in words it has other poolers, which normalise elsewhere
    keys.only("no_ln_pre", False)
    keys.only("pos_embed_type", "learnable")
    keys.only("pool_type", "tok")
    keys.only("timm_model_name", None)
    keys.idle("patch_dropout", *(f"timm_{name}" for name in ("pool", "proj", "proj_bias", "drop", "drop_path")))
    keys.idle("timm_model_pretrained")
    found, of_head, patch = _stack(keys, 768), keys.size("head_width", 64), keys.size("patch_size", 16)
    for name, part, whole in (("head_width", of_head, found["width"]), ("patch_size", patch, size)):
        if whole % part:
            keys.refuse(f"{name}: {part} does not divide {whole}")
    return found | {"heads": max(found["width"] // of_head, 1), "patch": patch}


def _text(keys: Keys, decoder: Keys, width: int) -> dict[str, Any]:
    """Fields of the text tower, whose sizes the decoder must have too."""
    keys.only("embed_cls", True)
    for name, value in (
        ("no_causal_mask", False),
        ("proj_type", "linear"),
        ("proj_bias", False),
        ("hf_model_name", None),
    ):
        keys.only(name, value)
    keys.idle("eos_id", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "hf_model_pretrained")
    keys.idle("hf_proj_type", "hf_pooler_type")
    # The decoder reads its context from the text tower and the poolers are the image tower's.
    decoder.idle("context_length", "n_queries", "attn_pooler_heads", "dim_head", "embed_cls", "pad_id", "eos_id")
    decoder.idle("hf_tokenizer_name", "tokenizer_kwargs", "proj_bias", "proj_type")
    sizes, wanted = _stack(keys, 512), _stack(decoder, 512)
    heads, vocab_size = keys.size("heads", 8), keys.size("vocab_size", VOCAB)
    decoder.size("vocab_size", vocab_size)
    for name, found, other in (
        ("width", wanted["width"], sizes["width"]),
        ("heads", decoder.size("heads", 8), heads),
    ):
        if found != other:
            decoder.refuse(f"{name}: {found} is another model; supported: text_cfg's, {other}")
    if sizes["mlp_width"] != RATIO * sizes["width"]:
        keys.refuse(f"mlp_ratio: MLPs of {sizes['mlp_width']} are another model; supported: {RATIO}, as of the decoder")
    if sizes["width"] != width:
        keys.refuse(f"width: {sizes['width']}, expected embed_dim, {width}")
    if sizes["width"] % heads:
        keys.refuse(f"heads: {heads} does not divide {sizes['width']}")
    depth = {"decoder_depth": wanted["depth"], "max_length": keys.size("context_length", LENGTH)}
    return sizes | depth | {"heads": heads}


def _pixels(keys: Keys) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, deviation) of the pixels divided by 255"""
    keys.idle(*SEEN)
    found = []
    for name, default in (("mean", clip.PIXELS["image_mean"]), ("std", clip.PIXELS["image_std"])):
        numbers = keys.numbers(name, default)
        if len(numbers) != 3 or (name == "std" and min(numbers) <= 0):
            keys.refuse(f"{name}: {list(numbers)}, expected 3 numbers")
            numbers = tuple(default)
        found.append(numbers)
    return found[0], found[1]


def differing(config: CocaModel) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what open_clip's CoCa has)} of the habits that it has no form for."""
    image = {"class_token": True, "patch_bias": False, "embedding_norm": True, "norm_epsilon": EPSILON}
    text = {"decoder_block": "open_clip", "shifted_class_mask": True, "norm_epsilon": EPSILON, "causal": True}
    text |= {"mlp_size": RATIO * config.model.text.width}
    found = pairs.differing(config, {"pooler": "shared", "embedding": config.model.text.width}, image, text)
    for side, tower in (("image", config.model.image), ("text", config.model.text)):
        if tower.activation not in ("gelu", "quick_gelu") or tower.activation != config.model.text.activation:
            found[f"{side}.activation"] = (tower.activation, "gelu or quick_gelu, of both towers")
    return found


def from_config(config: CocaModel, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The content of open_clip_config.json that makes the model."""
    model, image, text = config.model, config.model.image, config.model.text
    sizes = {"vocab_size": vocab_size, "context_length": max_length, "width": text.width, "heads": text.heads}
    vision = {
        "image_size": config.images.size,
        "patch_size": image.patch,
        "layers": image.depth,
        "width": image.width,
        "head_width": image.head_size,
        "mlp_ratio": _ratio(image),
        "attentional_pool": True,
        "attn_pooler_queries": model.queries,
        "attn_pooler_heads": model.pooler_heads,
        "output_tokens": True,
    }
    whole = {
        "embed_dim": model.embedding,
        "quick_gelu": text.activation == "quick_gelu",
        "vision_cfg": vision,
        "text_cfg": sizes | {"layers": text.depth, "embed_cls": True, "output_tokens": True, "pad_id": config.pad},
        "multimodal_cfg": sizes | {"layers": text.decoder_depth or text.depth},
        "custom_text": True,
    }
    return {"model_cfg": whole, "preprocess_cfg": {"mean": list(config.images.mean), "std": list(config.images.std)}}


def _ratio(config: StackConfig) -> float:
    """What the width is multiplied by, and the product then cut, to give the MLP's."""
    ratio = config.mlp_size / config.width
    return ratio if int(config.width * ratio) == config.mlp_size else math.nextafter(ratio, math.inf)


def table(config: CocaModel, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    model, image, text = config.model, config.model.image, config.model.text
    width, rows = (text.width,), padded(ids, text.vocab_multiple)
    places = (image.grid(config.images.size) ** 2 + 1,)
    written, depth = "text_decoder.resblocks.{}.", text.decoder_depth or text.depth
    read = "text_decoder.cross_attn.{}."
    return (
        pairs.patches("visual.conv1.weight", config),
        Row("visual.class_embedding", ("image/class_token",), (), (image.width,)),
        Row("visual.positional_embedding", ("image/position/table",), places, (image.width,)),
        *norm("visual.ln_pre", "image/embedding_norm", image.width),
        *_branches("visual.transformer.resblocks.{}.", "image/layers/", "attention", "mlp", image, image.depth),
        *_pooler(model),
        *norm("visual.ln_post", "image_norm", text.width),
        Row("visual.proj", ("space/image/kernel",), width, (model.embedding,)),
        *pairs.tokens(
            "text.token_embedding.weight", "text.positional_embedding", config, vocab_size, ids, max_length + 1
        ),
        Row("text.cls_emb", ("text/class_token",), (), width),
        *_branches("text.transformer.resblocks.{}.", "text/layers/", "attention", "mlp", text, text.depth),
        *norm("text.ln_final", "text/final_norm", text.width),
        Row("text.text_projection", ("space/text/kernel",), width, (model.embedding,)),
        *_branches(written, "decoder/", "attention", "inner_mlp", text, depth),
        *_branches(read, "decoder/", "cross", "mlp", text, depth),
        *norm(read + "ln_1_kv", "decoder/memory_norm", text.width, depth),
        *norm("text_decoder.ln_final", "final_norm", text.width),
        Columns("text_decoder.text_projection", ("unembed/kernel",), width, (rows,), vocab=vocab_size),
        Row("logit_scale", ("space/log_scale",), (), ()),
    )


class Columns(Row):
    """A head [D, V], not transposed: the vocabulary is its columns."""

    @property
    def folded(self) -> tuple[int, int]:
        return self.inputs[0], self.vocab


def _branches(theirs: str, ours: str, attention: str, mlp: str, config: StackConfig, layers: int) -> tuple[Row, ...]:
    """A residual block of open_clip's: attention, then an MLP, each behind its norm."""
    heads = config.heads, config.head_size
    return (
        *norm(theirs + "ln_1", f"{ours}{attention}_norm", config.width, layers),
        *pairs.fused(theirs + "attn", ours + attention, config.width, heads, layers=layers),
        *norm(theirs + "ln_2", f"{ours}{mlp}_norm", config.width, layers),
        *pairs.mlp(theirs + "mlp.c_fc", theirs + "mlp.c_proj", ours + mlp, config, layers),
    )


def _pooler(model: CocaConfig) -> tuple[Row, ...]:
    """The queries that read a picture. Where both sides are of one width, torch has their matrices in one."""
    front, width, seen = "visual.attn_pool.", model.text.width, model.image.width
    heads = model.pooler_heads, width // model.pooler_heads
    found = (
        Row(front + "query", ("pool/query",), (model.queries,), (width,)),
        *norm(front + "ln_q", "pool/query_norm", width),
        *norm(front + "ln_k", "pool/memory_norm", seen),
    )
    rows = pairs.fused(front + "attn", "pool", width, heads, "query_kernel")
    if width == seen:
        return found + rows
    matrices = (("q", "query_kernel", width), ("k", "key", seen), ("v", "value", seen))
    return (
        *found,
        *(
            Row(f"{front}attn.{letter}_proj_weight", (f"pool/{name}/kernel",), (inputs,), heads, True)
            for letter, name, inputs in matrices
        ),
        *rows[1:],
    )


FAMILY = Family(
    model_type="coca",
    kind=CocaModel,
    architecture=lambda config: "CoCa",
    prefix="",
    heads=(),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {},
    buffers=re.compile(r"(text\.|text_decoder\.)?attn_mask"),
    rows=lambda values: values.get("model_cfg", {}).get("text_cfg", {}).get("vocab_size", VOCAB),
    file=FILE,
    weights=WEIGHTS,
    told=lambda values: {name: values[name] for name in ("model_cfg", "preprocess_cfg") if name in values},
)
