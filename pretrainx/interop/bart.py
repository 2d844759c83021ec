"""BART (Lewis et al. 2020) in Hugging Face's form: the keys of its config.json, the names of its tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pretrainx.interop.family import Family, plain_heads, unlike
from pretrainx.interop.keys import ACTIVATIONS, GENERATION, Keys
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import padded

PREFIX, TABLE = "model.", "model.shared.weight"
OFFSET, EPSILON = 2, 1e-5


def to_config(keys: Keys, names: Collection[str]) -> EncoderDecoderConfig:
    """The encoder-decoder of a config.json. Raises DataError for keys and values that have no form here."""
    keys.only("is_encoder_decoder", True)
    keys.only("is_decoder", False)
    keys.only("scale_embedding", False)
    keys.only("tie_word_embeddings", True)
    # Relatives of BART that had the same class in the first versions.
    keys.only("normalize_embedding", True)
    keys.only("extra_pos_embeddings", OFFSET)
    for name in ("normalize_before", "add_final_layer_norm", "add_bias_logits", "static_position_embeddings"):
        keys.only(name, False)
    keys.repeats("decoder_start_token_id", "eos_token_id", 2)
    keys.idle("dropout", "activation_dropout", "classif_dropout", "encoder_layerdrop", "decoder_layerdrop", "init_std")
    keys.idle(*GENERATION)
    width, depth = keys.size("d_model", 1024), keys.size("encoder_layers", 12)
    heads = _of_both(keys, "attention_heads", 16)
    keys.repeats("num_hidden_layers", "encoder_layers", 12)
    if width % heads:
        keys.refuse(f"encoder_attention_heads: {heads} does not divide d_model {width}")
    keys.size("vocab_size")
    found = dict(
        width=width,
        depth=depth,
        decoder_depth=keys.size("decoder_layers", 12),
        heads=heads,
        mlp_width=_of_both(keys, "ffn_dim", 4096),
        max_length=keys.size("max_position_embeddings", 1024),
        position_offset=OFFSET,
        norm_epsilon=EPSILON,
        activation=keys.activation("activation_function", "gelu"),
        initial_std=keys.initial_std("init_std"),
    )
    keys.finish()
    return EncoderDecoderConfig(**found)


def _of_both(keys: Keys, name: str, default: int) -> int:
    """A size that the two sides have in common here."""
    encoder, decoder = (keys.size(f"{side}_{name}", default) for side in ("encoder", "decoder"))
    if encoder != decoder:
        keys.refuse(f"decoder_{name}: {decoder}, the encoder has {encoder}; supported: the same in both")
    return encoder


def differing(config: EncoderDecoderConfig) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what BART has)} of the habits that this family has no form for."""
    habits = {"positions": "learned", "position_offset": OFFSET, "norm": "layer", "norm_epsilon": EPSILON}
    habits |= {"norm_first": False, "embedding_norm": True, "gated": False, "bias": True, "qk_norm": False}
    habits |= {"tied": True, "scaled_attention": True, "scaled_logits": False}
    return unlike(config, habits) | plain_heads(config)


def from_config(config: EncoderDecoderConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    sides = {"attention_heads": config.heads, "ffn_dim": config.mlp_size}
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": max_length,
        "d_model": config.width,
        "encoder_layers": config.depth,
        "decoder_layers": config.target_depth,
        **{f"{side}_{name}": size for name, size in sides.items() for side in ("encoder", "decoder")},
        "activation_function": ACTIVATIONS[config.activation][0],
        "scale_embedding": False,
        "tie_word_embeddings": config.tied,
        "is_encoder_decoder": True,
        # Ours is on embeddings and residual branches, never on attention weights or inside the MLP.
        "dropout": config.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": config.initial_std,
    }


def table(config: EncoderDecoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`ids`: how many the model of ours has, its tables being padded from there."""
    rows = (padded(ids, config.vocab_multiple),)
    return (
        Row(TABLE, ("token/table",), rows, (config.width,), vocab=vocab_size),
        *_side("encoder", config, config.depth, max_length),
        *_side("decoder", config, config.target_depth, max_length),
    )


def _side(side: str, config: EncoderDecoderConfig, depth: int, max_length: int) -> tuple[Row, ...]:
    """The rows of one stack."""
    width, hidden, heads = (config.width,), (config.mlp_size,), (config.heads, config.head_size)
    front, block = f"{PREFIX}{side}.", f"{PREFIX}{side}.layers.{{}}."
    normed = lambda theirs, ours: norm(block + theirs, f"{side}/layers/{ours}", config.width, depth)
    dense = lambda theirs, ours, *sizes: linear(block + theirs, f"{side}/layers/{ours}", *sizes, depth)

    def attention(theirs: str, ours: str) -> tuple[Row, ...]:
        return (
            *dense(f"{theirs}.q_proj", f"{ours}/query", width, heads),
            *dense(f"{theirs}.k_proj", f"{ours}/key", width, heads),
            *dense(f"{theirs}.v_proj", f"{ours}/value", width, heads),
            *dense(f"{theirs}.out_proj", f"{ours}/out", heads, width),
            *normed(f"{theirs}_layer_norm", f"{ours}_norm"),
        )

    return (
        Row(front + "embed_positions.weight", (f"{side}/position/table",), (max_length + OFFSET,), width),
        *norm(front + "layernorm_embedding", f"{side}/embedding_norm", config.width),
        *attention("self_attn", "attention"),
        *(attention("encoder_attn", "cross") if side == "decoder" else ()),
        *dense("fc1", "mlp/up", width, hidden),
        *dense("fc2", "mlp/down", hidden, width),
        *normed("final_layer_norm", "mlp_norm"),
    )


FAMILY = Family(
    model_type="bart",
    kind=EncoderDecoderConfig,
    architecture=lambda config: "BartForConditionalGeneration",
    prefix=PREFIX,
    heads=("lm_head.", "final_logits_bias"),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: dict.fromkeys(
        ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"), TABLE
    ),
    # Added to the logits, never trained.
    zeros=lambda config, vocab_size: {"final_logits_bias": (1, vocab_size)},
)
