"""GPT-2 (Radford et al. 2019) in Hugging Face's form: the keys of its config.json, the names of its tensors."""

from __future__ import annotations

import re
from typing import Any

from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Row
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import padded

MODEL_TYPE, ARCHITECTURE, PREFIX = "gpt2", "GPT2LMHeadModel", "transformer."
# Causal masks, stored by old versions.
BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")


def to_config(keys: Keys) -> DecoderConfig:
    """The decoder of a config.json. Raises DataError for keys and values that have no form here."""
    keys.only("scale_attn_weights", True)
    keys.only("scale_attn_by_inverse_layer_idx", False)
    keys.only("reorder_and_upcast_attn", False, True)  # the same mathematics: softmax is float32 here in any case
    keys.only("add_cross_attention", False)
    width, heads = keys.size("n_embd", 768), keys.size("n_head", 12)
    if width % heads:
        keys.refuse(f"n_head: {heads} does not divide n_embd {width}")
    keys.size("vocab_size")
    found = dict(
        width=width,
        depth=keys.size("n_layer", 12),
        heads=heads,
        mlp_width=keys.size("n_inner", 4 * width),
        max_length=keys.size("n_positions", 1024),
        norm_epsilon=keys.positive("layer_norm_epsilon", 1e-5),
        activation=keys.activation("activation_function", "gelu_new"),
        tied=keys.flag("tie_word_embeddings", True),
        initial_std=keys.initial_std(),
    )
    keys.finish()
    return DecoderConfig(**found)


def differing(config: DecoderConfig) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what GPT-2 has)} of the habits that this family has no form for."""
    habits = {"positions": "learned", "norm": "layer", "gated": False, "bias": True, "qk_norm": False}
    habits |= {"logit_cap": 0.0, "window": 0}
    found = {
        name: (getattr(config, name), wanted) for name, wanted in habits.items() if getattr(config, name) != wanted
    }
    if config.shared_heads != config.heads:
        found["kv_heads"] = (config.kv_heads, f"as many as heads, {config.heads}")
    if config.heads * config.head_size != config.width:
        found["head_dim"] = (config.head_size, "width / heads")
    if config.activation not in ACTIVATIONS:
        found["activation"] = (config.activation, " or ".join(ACTIVATIONS))
    return found


def from_config(config: DecoderConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    return {
        "vocab_size": vocab_size,
        "n_positions": max_length,
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_inner": config.mlp_size,
        "activation_function": ACTIVATIONS[config.activation][0],
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        # Ours is on embeddings and residual branches, never on attention weights.
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "initializer_range": config.initial_std,
    }


def table(config: DecoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`ids`: how many the model of ours has, its tables being padded from there."""
    width, heads, hidden = (config.width,), (config.heads, config.head_size), (config.mlp_size,)
    rows = (padded(ids, config.vocab_multiple),)
    block = PREFIX + "h.{}."

    def norm(theirs: str, ours: str) -> tuple[Row, ...]:
        return (
            Row(f"{theirs}.weight", (f"{ours}/scale",), (), width),
            Row(f"{theirs}.bias", (f"{ours}/bias",), (), width),
        )

    def linear(
        theirs: str, ours: tuple[str, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> tuple[Row, ...]:
        # Conv1D: [in, out], not transposed.
        return (
            Row(f"{theirs}.weight", tuple(f"{path}/kernel" for path in ours), inputs, outputs),
            Row(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours), (), outputs),
        )

    attention = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
    head = () if config.tied else (Row("lm_head.weight", ("unembed/kernel",), width, rows, True, vocab_size),)
    return (
        Row(PREFIX + "wte.weight", ("token/table",), rows, width, vocab=vocab_size),
        Row(PREFIX + "wpe.weight", ("position/table",), (max_length,), width),
        *norm(block + "ln_1", "layers/attention_norm"),
        *linear(block + "attn.c_attn", attention, width, heads),
        *linear(block + "attn.c_proj", ("layers/attention/out",), heads, width),
        *norm(block + "ln_2", "layers/mlp_norm"),
        *linear(block + "mlp.c_fc", ("layers/mlp/up",), width, hidden),
        *linear(block + "mlp.c_proj", ("layers/mlp/down",), hidden, width),
        *norm(PREFIX + "ln_f", "final_norm"),
        *head,
    )
