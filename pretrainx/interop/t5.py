"""T5 1.0 and 1.1 (Raffel et al. 2020) in Hugging Face's form: the keys of its config.json, the names of its tensors.

The head is the token table and reads a scaled state (1.0), or is a matrix of its own (1.1): old versions say which of the two
with `tie_word_embeddings`; new ones say only whether the state is scaled, `scale_decoder_outputs`, and the files hold a head
of its own or do not.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.interop.family import Family, shared_heads, unlike
from pretrainx.interop.keys import ACTIVATIONS, GENERATION, Keys
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import padded

TABLE, HEAD = "shared.weight", "lm_head.weight"
BIAS = "relative_attention_bias.weight"


def to_config(keys: Keys, names: Collection[str]) -> EncoderDecoderConfig:
    """The encoder-decoder of a config.json. Raises DataError for keys and values that have no form here."""
    keys.only("is_encoder_decoder", True)
    keys.only("is_decoder", False)
    keys.repeats("decoder_start_token_id", "pad_token_id", 0)
    # Positions are relative: n_positions is what the rows of its training had.
    keys.idle("dropout_rate", "initializer_factor", "n_positions", *GENERATION)
    keys.size("vocab_size")
    depth = keys.size("num_layers", 6)
    gated, activation = _feed_forward(keys)
    both = keys.flag("tie_word_embeddings", True)
    scaled = keys.flag("scale_decoder_outputs", both)
    new = keys.has("scale_decoder_outputs")
    found = dict(
        width=keys.size("d_model", 512),
        depth=depth,
        decoder_depth=keys.size("num_decoder_layers", depth),
        heads=keys.size("num_heads", 8),
        head_dim=keys.size("d_kv", 64),
        mlp_width=keys.size("d_ff", 2048),
        positions="relative",
        buckets=keys.size("relative_attention_num_buckets", 32),
        bucket_distance=keys.size("relative_attention_max_distance", 128),
        norm="rms",
        norm_epsilon=keys.positive("layer_norm_epsilon", 1e-6),
        norm_first=True,
        embedding_norm=False,
        activation=activation,
        gated=gated,
        bias=False,
        # A head beside scaled states can only be a copy. Old files without scaling have one of their own.
        tied=scaled or (new and HEAD not in names),
        scaled_attention=False,
        scaled_logits=scaled,
        initial="fan_in",
    )
    if scaled and not both:
        keys.refuse("scale_decoder_outputs: true beside tie_word_embeddings: false is another model")
    keys.finish()
    return EncoderDecoderConfig(**found)


def _feed_forward(keys: Keys) -> tuple[bool, str]:
    """(gated, our name of the activation); "gated-gelu" is the tanh form."""
    name = keys.text("feed_forward_proj", "relu")
    gated, theirs = name.startswith("gated-"), name.removeprefix("gated-")
    theirs = "gelu_new" if name == "gated-gelu" else theirs
    # Newer versions write what follows from the name, and read it with precedence.
    keys.only("is_gated_act", gated)
    keys.only("dense_act_fn", theirs)
    return gated, keys.activation_of("feed_forward_proj", theirs)


def differing(config: EncoderDecoderConfig) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what T5 has)} of the habits that this family has no form for."""
    habits = {"positions": "relative", "norm": "rms", "norm_first": True, "embedding_norm": False, "bias": False}
    found = unlike(config, habits | {"qk_norm": False, "scaled_attention": False}) | shared_heads(config)
    if config.gated and config.activation == "gelu":
        found["activation"] = (config.activation, "gelu_tanh where gated")
    return found


def from_config(config: EncoderDecoderConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    theirs = ACTIVATIONS[config.activation][0]
    scaled = config.tied and config.scaled_logits
    return {
        "vocab_size": vocab_size,
        "d_model": config.width,
        "d_kv": config.head_size,
        "d_ff": config.mlp_size,
        "num_layers": config.depth,
        "num_decoder_layers": config.target_depth,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.bucket_distance,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": ("gated-gelu" if theirs == "gelu_new" else f"gated-{theirs}") if config.gated else theirs,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": scaled,
        "is_encoder_decoder": True,
        "dropout_rate": config.dropout,
    }


def table(config: EncoderDecoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`ids`: how many the model of ours has, its tables being padded from there."""
    width, rows = (config.width,), (padded(ids, config.vocab_multiple),)
    head = () if config.tied else (Row(HEAD, ("unembed/kernel",), width, rows, True, vocab_size),)
    return (
        Row(TABLE, ("token/table",), rows, width, vocab=vocab_size),
        *_side("encoder", config, config.depth, ("attention", "mlp")),
        *_side("decoder", config, config.target_depth, ("attention", "cross", "mlp")),
        *head,
    )


def _side(side: str, config: EncoderDecoderConfig, depth: int, branches: tuple[str, ...]) -> tuple[Row, ...]:
    """The rows of one stack; branches are numbered in their order."""
    width, hidden, heads = (config.width,), (config.mlp_size,), (config.heads, config.head_size)
    named = {"attention": "SelfAttention", "cross": "EncDecAttention", "mlp": "DenseReluDense"}
    grown = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
    bias = f"{side}.block.0.layer.0.SelfAttention.{BIAS}"  # all blocks of a stack share the first one's
    found = (Row(bias, (f"{side}/relative/table",), (config.buckets,), (config.heads,)),)
    for index, branch in enumerate(branches):
        front, ours = f"{side}.block.{{}}.layer.{index}.", f"{side}/layers/{branch}"
        found += norm(front + "layer_norm", f"{ours}_norm", config.width, depth, bias=False)
        shapes = {"query": ("q", width, heads), "key": ("k", width, heads), "value": ("v", width, heads)}
        shapes |= {"out": ("o", heads, width)}
        if branch == "mlp":
            shapes = {name: (theirs, width, hidden) for name, theirs in grown.items()} | {"down": ("wo", hidden, width)}
        for name, (theirs, inputs, outputs) in shapes.items():
            found += linear(f"{front}{named[branch]}.{theirs}", f"{ours}/{name}", inputs, outputs, depth, bias=False)
    return found + norm(f"{side}.final_layer_norm", f"{side}/final_norm", config.width, bias=False)


FAMILY = Family(
    model_type="t5",
    kind=EncoderDecoderConfig,
    architecture=lambda config: "T5ForConditionalGeneration",
    prefix="",
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *((HEAD,) if config.tied else ())), TABLE
    ),
    # A bias of the cross-attention that the first files hold and no version reads.
    buffers=re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\." + re.escape(BIAS)),
)
