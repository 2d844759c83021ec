"""RoBERTa (Liu et al. 2019) in Hugging Face's form: BERT's blocks, positions that begin behind the padding's, another head."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError
from pretrainx.interop import bert
from pretrainx.interop.family import Family
from pretrainx.interop.keys import Keys
from pretrainx.interop.tensors import Row, linear, norm
from pretrainx.models.encoder import EncoderConfig
from pretrainx.models.layers import padded

PREFIX = "roberta."


def to_config(keys: Keys, names: Collection[str]) -> EncoderConfig:
    """The encoder of a config.json. Raises DataError for keys and values that have no form here."""
    offset = keys.index("pad_token_id", 1) + 1  # the rows before it are for padding, and never read
    rows = keys.size("max_position_embeddings", 512)
    if rows <= offset:
        keys.refuse(f"max_position_embeddings: {rows}, of which {offset} are for padding")
    has_head = "lm_head.bias" in names
    found = bert.blocks(keys) | dict(
        max_length=max(rows - offset, 1),
        position_offset=offset,
        types=keys.size("type_vocab_size", 2),
        head="transform" if has_head else "none",
        pooler=not has_head and PREFIX + "pooler.dense.weight" in names,
    )
    keys.finish()
    return EncoderConfig(**found)


def differing(config: EncoderConfig) -> dict[str, tuple[Any, Any]]:
    """{key: (value, what RoBERTa has)} of the habits that this family has no form for."""
    found = bert.habits(config, {})
    if not config.position_offset:
        found["position_offset"] = (config.position_offset, "1 or more")
    if config.pooler and config.head != "none":
        found["pooler"] = (config.pooler, "no next-sentence prediction")
    return found


def from_config(config: EncoderConfig, vocab_size: int, max_length: int) -> dict[str, Any]:
    """The keys of config.json that make the model."""
    return bert.from_config(config, vocab_size, max_length) | {"pad_token_id": config.position_offset - 1}


def table(config: EncoderConfig, vocab_size: int, ids: int, max_length: int) -> tuple[Row, ...]:
    """`ids`: how many the model of ours has, its tables being padded from there."""
    width, rows = (config.width,), (padded(ids, config.vocab_multiple),)
    found = bert.body(PREFIX, config, vocab_size, ids, max_length)
    if config.head != "none":
        found += linear("lm_head.dense", "transform", width, width)
        found += norm("lm_head.layer_norm", "transform_norm", config.width)
        found += (Row("lm_head.bias", ("logit_bias",), (), rows, vocab=vocab_size),)
    return found


def settled(config: EncoderConfig, params: Any, special: Mapping[str, int]) -> tuple[EncoderConfig, Any]:
    """The model with positions that begin behind the padding's row, as its id says there.

    Rows before the first position are never read: they are left out, or come as zeros. ConfigError without padding.
    """
    if "pad" not in special:
        raise ConfigError(
            "positions begin behind a padding that the tokenizer does not have",
            where="config.model.position_offset",
            why="the model would take another token for it",
            do="export a model whose tokenizer has padding, or one with position_offset 0",
        )
    offset = special["pad"] + 1
    if offset == config.position_offset:
        return config, params
    rows = params["position"]["table"][config.position_offset :]
    table = np.concatenate([np.zeros((offset, config.width), rows.dtype), rows])
    return replace(config, position_offset=offset), {**params, "position": {"table": table}}


FAMILY = Family(
    model_type="roberta",
    kind=EncoderConfig,
    architecture=lambda config: "RobertaModel" if config.head == "none" else "RobertaForMaskedLM",
    base="RobertaModel",
    prefix=PREFIX,
    to_config=to_config,
    differing=differing,
    from_config=from_config,
    table=table,
    copies=lambda config: {
        "lm_head.decoder.weight": PREFIX + "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    buffers=re.compile(r"roberta\." + bert.BUFFERS),
    zeros=lambda config, vocab_size: bert.untyped(PREFIX, config),
    settled=settled,
    spare=re.compile(r"roberta\." + bert.POOLER),
    renamed=bert.RENAMED,
)
