"""Hugging Face directories made by hand: numpy, JSON and a tokenizer of 256 bytes and an end of text."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from pretrainx.data.tokenizer import byte_characters

VOCAB = 257
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": VOCAB,
    "n_positions": 40,
    "n_embd": 15,
    "n_layer": 3,
    "n_head": 3,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "summary_type": "cls_index",
    "use_cache": True,
}
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 15,
    "intermediate_size": 22,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "silu",
    "max_position_embeddings": 40,
    "rms_norm_eps": 1e-6,
    "rope_theta": 30000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "torch_dtype": "float32",
}
BOTH = {"gpt2": GPT2, "llama": LLAMA}


def shapes(values):
    """{name: shape} of the tensors of a config.json, written out independently of the tables under test."""
    if values["model_type"] == "gpt2":
        width, depth = values["n_embd"], values["n_layer"]
        hidden = values["n_inner"] or 4 * width
        found = {"wte.weight": (VOCAB, width), "wpe.weight": (values["n_positions"], width)}
        for layer in range(depth):
            block = f"h.{layer}."
            for name, inputs, outputs in (
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, hidden),
                ("mlp.c_proj", hidden, width),
            ):
                found |= {f"{block}{name}.weight": (inputs, outputs), f"{block}{name}.bias": (outputs,)}
            for name in ("ln_1", "ln_2"):
                found |= {f"{block}{name}.weight": (width,), f"{block}{name}.bias": (width,)}
        found |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
        return {f"transformer.{name}": shape for name, shape in found.items()}
    width, hidden, size = values["hidden_size"], values["intermediate_size"], values["head_dim"]
    heads, shared = values["num_attention_heads"] * size, values["num_key_value_heads"] * size
    found = {"model.embed_tokens.weight": (VOCAB, width), "model.norm.weight": (width,)}
    for layer in range(values["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        for name, rows in {"q": heads, "k": shared, "v": shared}.items():
            found[f"{block}self_attn.{name}_proj.weight"] = (rows, width)
        found |= {f"{block}self_attn.o_proj.weight": (width, heads), f"{block}mlp.down_proj.weight": (width, hidden)}
        found |= {f"{block}mlp.{name}_proj.weight": (hidden, width) for name in ("gate", "up")}
        found |= {f"{block}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return found if values["tie_word_embeddings"] else found | {"lm_head.weight": (VOCAB, width)}


def tensors(values, dtype="float32"):
    rng = np.random.default_rng(7)
    wanted = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    return {name: rng.normal(0, 0.2, shape).astype(wanted) for name, shape in sorted(shapes(values).items())}


def tokenizer_json():
    """A byte-level BPE without padding, as GPT-2's is."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(byte_characters())}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return inner.to_str()


def make(directory, values, arrays=None, **changes):
    """Writes the directory; `changes` are laid over config.json, None values included."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {**values, **changes}
    (directory / "config.json").write_text(json.dumps(values))
    (directory / "tokenizer.json").write_text(tokenizer_json())
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 256, "max_new_tokens": 5}))
    save_file(tensors(values) if arrays is None else arrays, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
