"""LLaMA (Touvron et al. 2023) in Hugging Face's form: the keys of its config.json, the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.interop.family import Family, unlike
from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import padded

PREFIX = "model."


def to_config(keys: Keys, names: Collection[str]) -> DecoderConfig:
    """The decoder of a config.json. Raises DataError for keys and values that have no form here."""
    keys.only("attention_bias", False)
    keys.only("mlp_bias", False)
    keys.only("pretraining_tp", 1)
    keys.only("sliding_window", None)
    keys.only("rope_interleaved", False)
    width, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    shared = keys.size("num_key_value_heads", heads)
    head_dim = keys.size("head_dim", max(width // heads, 1))
    if heads % shared:
        keys.refuse(f"num_key_value_heads: {shared} does not divide num_attention_heads {heads}")
    if head_dim % 2:
        keys.refuse(f"head_dim: {head_dim} is odd, rotary positions turn pairs")
    keys.size("vocab_size")
    found = dict(
        width=width,
        depth=keys.size("num_hidden_layers"),
        heads=heads,
        kv_heads=shared,
        head_dim=head_dim,
        mlp_width=keys.size("intermediate_size"),
        max_length=keys.size("max_position_embeddings", 2048),
        positions="rotary",
        rotary_base=_theta(keys),
        norm="rms",
        norm_epsilon=keys.positive("rms_norm_eps", 1e-6),
        activation=keys.activation("hidden_act", "silu"),
        gated=True,
        bias=False,
        tied=keys.flag("tie_word_embeddings", False),
        initial_std=keys.initial_std(),
        scaled_residual=False,
    )
    keys.finish()
    return DecoderConfig(**found)


def _theta(keys: Keys) -> float:
    """The rotary base: `rope_parameters` since version 5, `rope_theta` beside an empty `rope_scaling` before."""
    base = keys.positive("rope_theta", 10_000.0)
    for name in ("rope_parameters", "rope_scaling"):
        section = keys.section(name)
        kind = section.get("rope_type", section.get("type", "default"))
        extra = sorted(section.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
        if kind != "default" or extra or section.get("partial_rotary_factor", 1.0) != 1.0:
            keys.refuse(f"{name}: {section!r} scales positions; supported: rope_type 'default'")
            continue
        found = section.get("rope_theta", base)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not found > 0:
            keys.refuse(f"{name}.rope_theta: {found!r}, expected a number above 0")
        else:
            base = float(found)
    return base


def differing(config: DecoderConfig) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what LLaMA has)} of the habits that this family has no form for."""
    habits = {"positions": "rotary", "norm": "rms", "gated": True, "bias": False, "qk_norm": False}
    return unlike(config, habits | {"logit_cap": 0.0, "window": 0})


def from_config(config: DecoderConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": max_length,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.shared_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_size,
        "hidden_act": ACTIVATIONS[config.activation][0],
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": config.initial_std,
    }


def table(config: DecoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`ids`: how many the model of ours has, its tables being padded from there."""
    width, hidden, rows = (config.width,), (config.mlp_size,), (padded(ids, config.vocab_multiple),)
    heads, shared = (config.heads, config.head_size), (config.shared_heads, config.head_size)
    block, depth = PREFIX + "layers.{}.", config.depth
    scale = lambda theirs, ours, layers=0: norm(theirs, ours, config.width, layers, bias=False)
    kernel = lambda theirs, ours, *sizes: linear(block + theirs, f"layers/{ours}", *sizes, depth, bias=False)
    head = () if config.tied else (Row("lm_head.weight", ("unembed/kernel",), width, rows, True, vocab_size),)
    return (
        Row(PREFIX + "embed_tokens.weight", ("token/table",), rows, width, vocab=vocab_size),
        *scale(block + "input_layernorm", "layers/attention_norm", depth),
        *kernel("self_attn.q_proj", "attention/query", width, heads),
        *kernel("self_attn.k_proj", "attention/key", width, shared),
        *kernel("self_attn.v_proj", "attention/value", width, shared),
        *kernel("self_attn.o_proj", "attention/out", heads, width),
        *scale(block + "post_attention_layernorm", "layers/mlp_norm", depth),
        *kernel("mlp.gate_proj", "mlp/gate", width, hidden),
        *kernel("mlp.up_proj", "mlp/up", width, hidden),
        *kernel("mlp.down_proj", "mlp/down", hidden, width),
        *scale(PREFIX + "norm", "final_norm"),
        *head,
    )


FAMILY = Family(
    model_type="llama",
    kind=DecoderConfig,
    architecture=lambda config: "LlamaForCausalLM",
    prefix=PREFIX,
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {"lm_head.weight": PREFIX + "embed_tokens.weight"} if config.tied else {},
    # Rotary frequencies, stored by old versions; they follow from the configuration.
    buffers=re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
)
