"""BERT (Devlin et al. 2019) in Hugging Face's form: the keys of its config.json, the names of its tensors.

What the model has beside its blocks is in the files, not in the configuration: a head for masked tokens, a pooler, both with
next-sentence prediction, or the features alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from pretrainx.interop.family import Family, plain_heads, unlike
from pretrainx.interop.keys import ACTIVATIONS, Keys
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import padded

PREFIX, TABLE = "bert.", "bert.embeddings.word_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
# Positions and types of every row, stored by some versions.
BUFFERS = r"embeddings\.(position_ids|token_type_ids)"
# The pooler of a file whose other head does not read it.
POOLER = r"pooler\.dense\.(weight|bias)"
# TensorFlow's names of a norm's leaves, in the first files.
RENAMED = ((re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"), (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"))


def to_config(keys: Keys, names: Collection[str]) -> EncoderConfig:
    """The encoder of a config.json. Raises DataError for keys and values that have no form here."""
    # Of a pooler that this library's first form did not use either.
    keys.idle("directionality", "pooler_type", *(f"pooler_{name}" for name in ("fc_size", "num_attention_heads")))
    keys.idle("pooler_num_fc_layers", "pooler_size_per_head")
    has_head, related = "cls.predictions.bias" in names, "cls.seq_relationship.weight" in names
    found = blocks(keys) | dict(
        max_length=keys.size("max_position_embeddings", 512),
        types=keys.size("type_vocab_size", 2),
        head="transform" if has_head else "none",
        # A model without heads has nothing that reads its pooler; that of masked tokens alone does not.
        pooler=related or (not has_head and PREFIX + "pooler.dense.weight" in names),
    )
    keys.finish()
    return EncoderConfig(**found)


def blocks(keys: Keys) -> dict[str, Any]:
    """What BERT and RoBERTa read alike."""
    keys.only("position_embedding_type", "absolute")
    keys.only("is_decoder", False)
    keys.only("add_cross_attention", False)
    keys.only("tie_word_embeddings", True)
    keys.idle("hidden_dropout_prob", "attention_probs_dropout_prob")
    width, heads = keys.size("hidden_size", 768), keys.size("num_attention_heads", 12)
    if width % heads:
        keys.refuse(f"num_attention_heads: {heads} does not divide hidden_size {width}")
    keys.size("vocab_size")
    return dict(
        width=width,
        depth=keys.size("num_hidden_layers", 12),
        heads=heads,
        mlp_width=keys.size("intermediate_size", 3072),
        norm_epsilon=keys.positive("layer_norm_eps", 1e-12),
        activation=keys.activation("hidden_act", "gelu"),
        initial_std=keys.initial_std(),
    )


def differing(config: EncoderConfig) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what BERT has)} of the habits that this family has no form for."""
    return habits(config, {"position_offset": 0})


def habits(config: EncoderConfig, more: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What neither BERT nor RoBERTa has a form for, and `more`."""
    wanted = {"positions": "learned", "norm": "layer", "norm_first": False, "embedding_norm": True, "gated": False}
    found = unlike(config, wanted | {"bias": True, "qk_norm": False, "tied": True} | more) | plain_heads(config)
    if config.head == "linear":
        found["head"] = (config.head, "transform or none")
    return found


def from_config(config: EncoderConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": max_length + config.position_offset,
        "type_vocab_size": max(config.types, 1),
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_size,
        "hidden_act": ACTIVATIONS[config.activation][0],
        "layer_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "is_decoder": False,
        "add_cross_attention": False,
        # Ours is on embeddings and residual branches, never on attention weights.
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": config.initial_std,
    }


def table(config: EncoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`ids`: how many the model of ours has, its tables being padded from there."""
    width, rows, front = (config.width,), (padded(ids, config.vocab_multiple),), "cls.predictions."
    found = body(PREFIX, config, vocab_size, ids, max_length)
    if config.head != "none":
        found += linear(front + "transform.dense", "transform", width, width)
        found += norm(front + "transform.LayerNorm", "transform_norm", config.width)
        found += (Row(front + "bias", ("logit_bias",), (), rows, vocab=vocab_size),)
        if config.pooler:
            found += linear("cls.seq_relationship", "relation", width, (2,))
    return found


def body(prefix: str, config: EncoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """The rows that BERT and RoBERTa name alike but for the prefix: embeddings, blocks, pooler."""
    width, hidden, heads = (config.width,), (config.mlp_size,), (config.heads, config.head_size)
    block, depth = prefix + "encoder.layer.{}.", config.depth
    embeddings, rows = prefix + "embeddings.", (padded(ids, config.vocab_multiple),)
    positions = (max_length + config.position_offset,)
    normed = lambda theirs, ours: norm(block + theirs, f"layers/{ours}", config.width, depth)
    dense = lambda theirs, ours, *sizes: linear(block + theirs, f"layers/{ours}", *sizes, depth)
    return (
        Row(embeddings + "word_embeddings.weight", ("token/table",), rows, width, vocab=vocab_size),
        Row(embeddings + "position_embeddings.weight", ("position/table",), positions, width),
        *((Row(prefix + TYPES, ("type/table",), (config.types,), width),) if config.types else ()),
        *norm(embeddings + "LayerNorm", "embedding_norm", config.width),
        *dense("attention.self.query", "attention/query", width, heads),
        *dense("attention.self.key", "attention/key", width, heads),
        *dense("attention.self.value", "attention/value", width, heads),
        *dense("attention.output.dense", "attention/out", heads, width),
        *normed("attention.output.LayerNorm", "attention_norm"),
        *dense("intermediate.dense", "mlp/up", width, hidden),
        *dense("output.dense", "mlp/down", hidden, width),
        *normed("output.LayerNorm", "mlp_norm"),
        *(linear(prefix + "pooler.dense", "pooler", width, width) if config.pooler else ()),
    )


def untyped(prefix: str, config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """A model without types is one of a single type that adds nothing."""
    return {} if config.types else {prefix + TYPES: (1, config.width)}


def _architecture(config: EncoderConfig) -> str:
    if config.head == "none":
        return "BertModel"
    return "BertForPreTraining" if config.pooler else "BertForMaskedLM"


FAMILY = Family(
    model_type="bert",
    kind=EncoderConfig,
    architecture=_architecture,
    base="BertModel",
    prefix=PREFIX,
    heads=("cls.",),
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {
        "cls.predictions.decoder.weight": TABLE,
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=re.compile(r"bert\." + BUFFERS),
    zeros=lambda config, vocab_size: untyped(PREFIX, config),
    spare=re.compile(r"bert\." + POOLER),
    renamed=RENAMED,
)
