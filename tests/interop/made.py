"""Hugging Face directories made by hand: numpy, JSON and a tokenizer of 256 bytes and what special tokens a family has."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from pretrainx.data.pieces import byte_characters

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
# Bytes, then the special tokens of SPECIALS.
BERT = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 260,
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 22,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "pad_token_id": 256,
    "tie_word_embeddings": True,
}
PAIRS = BERT | {"architectures": ["BertForPreTraining"]}
FEATURES = BERT | {"architectures": ["BertModel"]}
ROBERTA = BERT | {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "type_vocab_size": 1}
ROBERTA |= {"pad_token_id": 3, "max_position_embeddings": 44}
T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 266,
    "d_model": 15,
    "d_kv": 6,
    "d_ff": 22,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "decoder_start_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 256,
    "is_encoder_decoder": True,
    "tie_word_embeddings": False,
}
T5_FIRST = T5 | {"feed_forward_proj": "relu", "tie_word_embeddings": True}
BART = {
    "model_type": "bart",
    "architectures": ["BartForConditionalGeneration"],
    "vocab_size": 260,
    "d_model": 15,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 22,
    "decoder_ffn_dim": 22,
    "max_position_embeddings": 40,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "decoder_start_token_id": 257,
    "eos_token_id": 257,
    "pad_token_id": 256,
    "forced_eos_token_id": 257,
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
}
BOTH = {"gpt2": GPT2, "llama": LLAMA}
ENCODERS = {"bert": BERT, "pairs": PAIRS, "features": FEATURES, "roberta": ROBERTA}
ALL = BOTH | ENCODERS | {"t5": T5, "t5-first": T5_FIRST, "bart": BART}
SPECIALS = {
    "gpt2": ("<|endoftext|>",),
    "llama": ("<|endoftext|>",),
    "bert": ("[PAD]", "[SEP]", "[CLS]", "[MASK]"),
    "roberta": ("<pad>", "</s>", "<s>", "<mask>"),
    "t5": ("<pad>", "</s>", *(f"<extra_id_{index}>" for index in range(7, -1, -1))),
    "bart": ("<pad>", "</s>", "<s>", "<mask>"),
}


def shapes(values):
    """{name: shape} of the tensors of a config.json, written out independently of the tables under test."""
    if values["model_type"] in ("bert", "roberta"):
        return shapes_of_encoder(values)
    if values["model_type"] in ("t5", "bart"):
        return (shapes_of_t5 if values["model_type"] == "t5" else shapes_of_bart)(values)
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


def layer(found, name, inputs, outputs, norm=False):
    """Adds a torch.nn.Linear with bias, or a norm."""
    found |= {f"{name}.weight": (outputs,) if norm else (outputs, inputs), f"{name}.bias": (outputs,)}


def shapes_of_encoder(values):
    kind, width, hidden = values["model_type"], values["hidden_size"], values["intermediate_size"]
    found = {"embeddings.word_embeddings.weight": (values["vocab_size"], width)}
    found["embeddings.position_embeddings.weight"] = (values["max_position_embeddings"], width)
    found["embeddings.token_type_embeddings.weight"] = (values["type_vocab_size"], width)
    layer(found, "embeddings.LayerNorm", 0, width, norm=True)
    for number in range(values["num_hidden_layers"]):
        block = f"encoder.layer.{number}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            layer(found, f"{block}attention.{name}", width, width)
        layer(found, block + "intermediate.dense", width, hidden)
        layer(found, block + "output.dense", hidden, width)
        layer(found, block + "attention.output.LayerNorm", 0, width, norm=True)
        layer(found, block + "output.LayerNorm", 0, width, norm=True)
    pooled, base = "PreTraining" in values["architectures"][0], values["architectures"][0] == "BertModel"
    if pooled or base:
        layer(found, "pooler.dense", width, width)
    if base:
        return found
    found = {f"{kind}.{name}": shape for name, shape in found.items()}
    front, dense, norm = "cls.predictions.", "transform.dense", "transform.LayerNorm"
    if kind == "roberta":
        front, dense, norm = "lm_head.", "dense", "layer_norm"
    layer(found, front + dense, width, width)
    layer(found, front + norm, 0, width, norm=True)
    found[front + "bias"] = (values["vocab_size"],)
    if pooled:
        layer(found, "cls.seq_relationship", width, 2)
    return found


def shapes_of_t5(values):
    width, hidden, heads = values["d_model"], values["d_ff"], values["num_heads"]
    inner = heads * values["d_kv"]
    found = {"shared.weight": (values["vocab_size"], width)}
    for side, depth in (("encoder", values["num_layers"]), ("decoder", values["num_decoder_layers"])):
        attentions = ("SelfAttention", "EncDecAttention")[: 1 if side == "encoder" else 2]
        for number in range(depth):
            for index, name in enumerate(attentions):
                block = f"{side}.block.{number}.layer.{index}."
                found |= {f"{block}{name}.{letter}.weight": (inner, width) for letter in "qkv"}
                found |= {f"{block}{name}.o.weight": (width, inner), f"{block}layer_norm.weight": (width,)}
            block = f"{side}.block.{number}.layer.{len(attentions)}."
            ups = ("wi",) if values["feed_forward_proj"] == "relu" else ("wi_0", "wi_1")
            found |= {f"{block}DenseReluDense.{name}.weight": (hidden, width) for name in ups}
            found |= {f"{block}DenseReluDense.wo.weight": (width, hidden), f"{block}layer_norm.weight": (width,)}
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found |= {bias: (values["relative_attention_num_buckets"], heads), f"{side}.final_layer_norm.weight": (width,)}
    return found if values["tie_word_embeddings"] else found | {"lm_head.weight": (values["vocab_size"], width)}


def shapes_of_bart(values):
    width = values["d_model"]
    found = {"model.shared.weight": (values["vocab_size"], width), "final_logits_bias": (1, values["vocab_size"])}
    for side in ("encoder", "decoder"):
        front, hidden = f"model.{side}.", values[f"{side}_ffn_dim"]
        found[front + "embed_positions.weight"] = (values["max_position_embeddings"] + 2, width)
        layer(found, front + "layernorm_embedding", 0, width, norm=True)
        for number in range(values[f"{side}_layers"]):
            block = f"{front}layers.{number}."
            for attention in ("self_attn", "encoder_attn")[: 1 if side == "encoder" else 2]:
                for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    layer(found, f"{block}{attention}.{name}", width, width)
                layer(found, f"{block}{attention}_layer_norm", 0, width, norm=True)
            layer(found, block + "fc1", width, hidden)
            layer(found, block + "fc2", hidden, width)
            layer(found, block + "final_layer_norm", 0, width, norm=True)
    return found


def tensors(values, dtype="float32"):
    rng = np.random.default_rng(7)
    wanted = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    found = {name: rng.normal(0, 0.2, shape).astype(wanted) for name, shape in sorted(shapes(values).items())}
    return found | {name: np.zeros_like(found[name]) for name in {"final_logits_bias"} & found.keys()}


def tokenizer_json(specials=SPECIALS["gpt2"]):
    """A byte-level BPE without padding, as GPT-2's is, or with other special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(byte_characters())}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return inner.to_str()


def make(directory, values, arrays=None, **changes):
    """Writes the directory; `changes` are laid over config.json, None values included."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {**values, **changes}
    (directory / "config.json").write_text(json.dumps(values))
    (directory / "tokenizer.json").write_text(tokenizer_json(SPECIALS[values["model_type"]]))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 256, "max_new_tokens": 5}))
    save_file(tensors(values) if arrays is None else arrays, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
