"""GPT-2 (Radford et al. 2019) in Hugging Face's form: the keys of its config.json, the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.interop.family import Family, plain_heads, unlike
from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Row, norm
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import padded

PREFIX = "transformer."


def to_config(keys: Keys, names: Collection[str]) -> DecoderConfig:
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
    return unlike(config, habits | {"logit_cap": 0.0, "window": 0}) | plain_heads(config)


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
    rows, depth = (padded(ids, config.vocab_multiple),), config.depth
    block = PREFIX + "h.{}."

    def linear(
        theirs: str, ours: tuple[str, ...], inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> tuple[Row, ...]:
        # Conv1D: [in, out], not transposed.
        kernels, biases = (tuple(f"{path}/{leaf}" for path in ours) for leaf in ("kernel", "bias"))
        return (
            Row(f"{block}{theirs}.weight", kernels, inputs, outputs, layers=depth),
            Row(f"{block}{theirs}.bias", biases, (), outputs, layers=depth),
        )

    attention = tuple(f"layers/attention/{name}" for name in ("query", "key", "value"))
    head = () if config.tied else (Row("lm_head.weight", ("unembed/kernel",), width, rows, True, vocab_size),)
    return (
        Row(PREFIX + "wte.weight", ("token/table",), rows, width, vocab=vocab_size),
        Row(PREFIX + "wpe.weight", ("position/table",), (max_length,), width),
        *norm(block + "ln_1", "layers/attention_norm", config.width, depth),
        *linear("attn.c_attn", attention, width, heads),
        *linear("attn.c_proj", ("layers/attention/out",), heads, width),
        *norm(block + "ln_2", "layers/mlp_norm", config.width, depth),
        *linear("mlp.c_fc", ("layers/mlp/up",), width, hidden),
        *linear("mlp.c_proj", ("layers/mlp/down",), hidden, width),
        *norm(PREFIX + "ln_f", "final_norm", config.width),
        *head,
    )


FAMILY = Family(
    model_type="gpt2",
    kind=DecoderConfig,
    architecture=lambda config: "GPT2LMHeadModel",
    prefix=PREFIX,
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {"lm_head.weight": PREFIX + "wte.weight"} if config.tied else {},
    # Causal masks, stored by old versions.
    buffers=re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"),
)
