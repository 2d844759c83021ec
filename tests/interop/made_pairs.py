"""Directories of CLIP, SigLIP and open_clip's CoCa made by hand, their tensors written out independently of the tables."""

import json

import numpy as np
from safetensors.numpy import save_file

from interop.made import layer, tokenizer_json

TOWER = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
TOWER |= {"layer_norm_eps": 1e-5, "initializer_range": 0.02, "attention_dropout": 0.0}
SEEN = {"image_size": 12, "patch_size": 4, "num_channels": 3}
# Bytes, then the special tokens.
SPECIALS = {
    "clip": ("<|startoftext|>", "<|endoftext|>"),
    "siglip": ("</s>",),
    "coca": ("<|startoftext|>", "<|endoftext|>"),
}
READ = TOWER | {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 9}
CLIP = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 10,
    "logit_scale_init_value": 2.6592,
    "text_config": READ
    | {"model_type": "clip_text_model", "vocab_size": 258, "eos_token_id": 257, "bos_token_id": 256},
    "vision_config": TOWER | SEEN | {"model_type": "clip_vision_model", "hidden_act": "gelu"},
}
SIGLIP = {
    "model_type": "siglip",
    "architectures": ["SiglipModel"],
    "text_config": READ
    | {"model_type": "siglip_text_model", "vocab_size": 257, "pad_token_id": 256, "projection_size": 12},
    "vision_config": TOWER | SEEN | {"model_type": "siglip_vision_model", "vision_use_head": True},
}
TEXT = {"vocab_size": 258, "context_length": 9, "width": 16, "heads": 2}
COCA = {
    "model_cfg": {
        "embed_dim": 16,
        "quick_gelu": False,
        "vision_cfg": {
            "image_size": 12,
            "patch_size": 4,
            "layers": 2,
            "width": 12,
            "head_width": 4,
            "attentional_pool": True,
            "attn_pooler_queries": 5,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": TEXT | {"layers": 2, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": TEXT | {"layers": 1, "attn_pooler_heads": 2},
        "custom_text": True,
    },
    "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"},
}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], "size": {"shortest_edge": 12}, "crop_size": 12}
ALL = {"clip": CLIP, "siglip": SIGLIP, "coca": COCA}
FILES = {"coca": ("open_clip_config.json", "open_clip_model.safetensors")}


def files(name):
    """The names of configuration and weights."""
    return FILES.get(name, ("config.json", "model.safetensors"))


def shapes(name):
    """{name: shape} of the tensors."""
    return shapes_of_coca() if name == "coca" else shapes_of_towers(name)


def shapes_of_towers(name):
    values, found = ALL[name], {}
    text, image = values["text_config"], values["vision_config"]
    for side, config in (("text", text), ("vision", image)):
        width, hidden = config["hidden_size"], config["intermediate_size"]
        for number in range(config["num_hidden_layers"]):
            block = f"{side}_model.encoder.layers.{number}."
            for matrix in ("q_proj", "k_proj", "v_proj", "out_proj"):
                layer(found, f"{block}self_attn.{matrix}", width, width)
            layer(found, block + "mlp.fc1", width, hidden)
            layer(found, block + "mlp.fc2", hidden, width)
            for norm in ("layer_norm1", "layer_norm2"):
                layer(found, block + norm, 0, width, norm=True)
    layer(found, "text_model.final_layer_norm", 0, 16, norm=True)
    layer(found, "vision_model.post_layernorm", 0, 12, norm=True)
    front, seen = "text_model.embeddings.", "vision_model.embeddings."
    found |= {front + "token_embedding.weight": (text["vocab_size"], 16), front + "position_embedding.weight": (9, 16)}
    found |= {seen + "patch_embedding.weight": (12, 3, 4, 4)}
    if name == "clip":
        layer(found, "vision_model.pre_layrnorm", 0, 12, norm=True)
        found |= {seen + "class_embedding": (12,), seen + "position_embedding.weight": (10, 12), "logit_scale": ()}
        return found | {"visual_projection.weight": (10, 12), "text_projection.weight": (10, 16)}
    head = "vision_model.head."
    layer(found, "text_model.head", 16, 12)
    layer(found, head + "attention.out_proj", 12, 12)
    layer(found, head + "layernorm", 0, 12, norm=True)
    layer(found, head + "mlp.fc1", 12, 20)
    layer(found, head + "mlp.fc2", 20, 12)
    found |= {seen + "patch_embedding.bias": (12,), seen + "position_embedding.weight": (9, 12)}
    found |= {
        head + "probe": (1, 1, 12),
        head + "attention.in_proj_weight": (36, 12),
        head + "attention.in_proj_bias": (36,),
    }
    return found | {"logit_scale": (1,), "logit_bias": (1,)}


def shapes_of_coca():
    found = {"visual.conv1.weight": (12, 3, 4, 4), "visual.class_embedding": (12,), "logit_scale": ()}
    found |= {"visual.positional_embedding": (10, 12), "visual.proj": (16, 16), "visual.attn_pool.query": (5, 16)}
    found |= {"text.token_embedding.weight": (258, 16), "text.positional_embedding": (10, 16), "text.cls_emb": (16,)}
    found |= {"text.text_projection": (16, 16), "text_decoder.text_projection": (16, 258)}
    front = "visual.attn_pool.attn."
    found |= {front + "q_proj_weight": (16, 16), front + "k_proj_weight": (16, 12), front + "v_proj_weight": (16, 12)}
    found |= {front + "in_proj_bias": (48,)}
    layer(found, front + "out_proj", 16, 16)
    for name, width in (
        ("visual.ln_pre", 12),
        ("visual.ln_post", 16),
        ("text.ln_final", 16),
        ("text_decoder.ln_final", 16),
    ):
        layer(found, name, 0, width, norm=True)
    layer(found, "visual.attn_pool.ln_q", 0, 16, norm=True)
    layer(found, "visual.attn_pool.ln_k", 0, 12, norm=True)
    stacks = (("visual.transformer.resblocks", 2, 12), ("text.transformer.resblocks", 2, 16))
    for stack, depth, width in (*stacks, ("text_decoder.resblocks", 1, 16), ("text_decoder.cross_attn", 1, 16)):
        for number in range(depth):
            block = f"{stack}.{number}."
            found |= {block + "attn.in_proj_weight": (3 * width, width), block + "attn.in_proj_bias": (3 * width,)}
            layer(found, block + "attn.out_proj", width, width)
            layer(found, block + "mlp.c_fc", width, 4 * width)
            layer(found, block + "mlp.c_proj", 4 * width, width)
            for norm in ("ln_1", "ln_2", *(("ln_1_kv",) if stack.endswith("cross_attn") else ())):
                layer(found, block + norm, 0, width, norm=True)
    return found


def tensors(name, dtype="float32"):
    rng = np.random.default_rng(5)
    return {key: np.asarray(rng.normal(0, 0.2, shape)).astype(dtype) for key, shape in sorted(shapes(name).items())}


def make(folder, name, arrays=None, values=None, specials=None, pixels=PIXELS):
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = files(name)
    (folder / config).write_text(json.dumps(values or ALL[name]))
    (folder / "tokenizer.json").write_text(tokenizer_json(specials or SPECIALS[name]))
    if pixels is not None and name != "coca":
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    save_file(tensors(name) if arrays is None else arrays, folder / weights, metadata={"format": "pt"})
    return folder
