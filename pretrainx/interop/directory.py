"""Hugging Face directories, and open_clip's: configuration, safetensors, tokenizer.json. Read and written without running
anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.interop import (
    bart,
    beit,
    bert,
    clip,
    coca,
    gpt2,
    llama,
    roberta,
    siglip,
    t5,
    tensors,
    vit,
    vit_mae,
    weights,
)
from pretrainx.interop.family import CONFIG, Family
from pretrainx.interop.keys import Keys, refuse_habits
from pretrainx.interop.pairs import PairModel
from pretrainx.interop.pictures import PREPROCESSOR, PictureModel
from pretrainx.interop.weights import read_json
from pretrainx.models.layers import padded
from pretrainx.models.stack import StackConfig

TOKENIZER = "tokenizer.json"
NAMED = ("bos", "eos", "pad", "mask", "cls", "sep")
# Kept from the source and written again: how it is generated from, what its tokenizer is called, how its pictures are made.
BESIDE = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", PREPROCESSOR)
OF_TEXT = {module.FAMILY.model_type: module.FAMILY for module in (gpt2, llama, bert, roberta, t5, bart)}
OF_PICTURES = {module.FAMILY.model_type: module.FAMILY for module in (vit, vit_mae, beit)}
OF_PAIRS = {module.FAMILY.model_type: module.FAMILY for module in (clip, siglip, coca)}
FAMILIES = OF_TEXT | OF_PICTURES | OF_PAIRS
Model = StackConfig | PictureModel | PairModel


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model that was read.

    Attributes:
      config: its sizes and habits; `max_length` is the longest row that it knows, 0 where there is none. Of pictures what
        stands in for it: a PictureModel, with captions a PairModel.
      params: our leaves, unboxed numpy arrays in the dtype of the file, vocabulary tables padded with zeros.
      vocab_size: how many ids the source's table has; of pictures, how many visual tokens.
      facts: what an export needs beside, as plain JSON values: source, model_type, vocab_size, dtype, left_out (names of
        tensors that the model has no place for), config (the source's config.json as it was) and files (others of its JSON
        files by name).
    """

    config: Model
    params: paths.Tree = field(repr=False)
    vocab_size: int
    facts: dict[str, Any] = field(repr=False)


def read(directory: str | Path, ids: int = 0) -> Pretrained:
    """The model in a directory that `save_pretrained` wrote, or the older files of the hub.

    `ids`: how many ids the tokenizer needs, where that may be more than the table has rows.

    Raises DataError for files that are missing, damaged or pickled, for keys of config.json that are not understood, and for
    tensors that are missing, left over or of another shape; each is listed.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(
            "there is no model to import",
            where=str(directory),
            why="no such directory",
            do="name a directory with config.json and model.safetensors, or a .gguf file",
        )
    values = values_of(directory)
    found = weights.read(directory, _family(values, str(directory)).weights)
    files = {name: read_json(directory / name) for name in BESIDE if (directory / name).is_file()}
    return assemble(values, found, str(directory), ids, files)


def assemble(
    values: dict[str, Any],
    found: Mapping[str, np.ndarray],
    where: str,
    ids: int = 0,
    files: dict[str, Any] | None = None,
) -> Pretrained:
    """The model of a config.json's values and its tensors by name."""
    family = _family(values, where)
    full = weights.named(family, found)
    config = family.to_config(Keys(values, f"{where}: {CONFIG}"), full.keys())
    config = family.described(config, files or {}, where)
    vocab_size = family.rows(values)
    config = with_rows(config, vocab_size, ids)
    table = family.table(config, vocab_size, ids or vocab_size, config.max_length)
    placed = {name for row in table for name in row.names}
    left_out = sorted(name for name in full if name not in placed and family.spare.fullmatch(name))
    full = weights.without_copies(family, config, {name: full[name] for name in full if name not in left_out}, where)
    full = weights.without_constants(family.constants(config), full, where)
    arrays, dtype = weights.in_one_dtype(full, where)
    params = tensors.read(table, arrays, where)
    facts = {
        "source": Path(where).name,
        "model_type": family.model_type,
        "vocab_size": vocab_size,
        "dtype": dtype,
        "left_out": left_out,
        "config": values,
        "files": files or {},
    }
    return Pretrained(config, params, vocab_size, facts)


def values_of(directory: Path) -> dict[str, Any]:
    """What the configuration says; of open_clip's file, which names no family, with the one that is read of those.

    DataError where it is missing or damaged."""
    if (directory / CONFIG).is_file() or not (directory / coca.FILE).is_file():
        return read_json(directory / CONFIG)
    return read_json(directory / coca.FILE) | {"model_type": coca.FAMILY.model_type}


def type_of(directory: Path) -> str:
    """The name of the family that a directory is of; "" where no configuration says one."""
    if not any((directory / name).is_file() for name in (CONFIG, coca.FILE)):
        return ""
    return str(values_of(directory).get("model_type", ""))


def with_rows(config: Model, vocab_size: int, ids: int) -> Model:
    """`config` with a padding of tables that leaves room for all ids of the source and of the tokenizer."""
    if isinstance(config, PictureModel):
        return config
    if padded(ids or vocab_size, config.vocab_multiple) >= vocab_size:
        return config
    wider = {"vocab_multiple": padded(vocab_size, config.vocab_multiple)}
    return config.with_text(**wider) if isinstance(config, PairModel) else replace(config, **wider)


def write(
    directory: str | Path,
    config: Model,
    params: paths.Tree,
    *,
    ids: int,
    vocab_size: int,
    max_length: int,
    tokenizer: str | Path | None = None,
    special: Mapping[str, int] | None = None,
    facts: dict[str, Any] | None = None,
    card: str = "",
) -> None:
    """Writes a new directory that `transformers` loads; the other direction of `read`.

    Args:
      params: our leaves; `ids`: how many the model has (its tables are padded from there).
      vocab_size: ids that are written, the first ones; max_length: the longest row.
      tokenizer: the tokenizer.json to copy; special: {"eos": id, ...} for the config of a model that was trained here; an
        encoder-decoder's "decoder_start" too.
      facts: of an imported model. Its config.json is written again where it still describes the model.
      card: the text of README.md.

    Raises ConfigError naming each key of the model that has no form there, and for a directory that is not empty.
    """
    directory = Path(directory)
    family, facts = fitting(config), facts or {}
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            "the target is not empty", where=str(directory), why="nothing is overwritten", do="name a new directory"
        )
    special = special or {}
    rows = lambda: family.table(config, vocab_size, ids, max_length)
    values = _as_it_was(family, config, {name for row in rows() for name in row.names}, vocab_size, max_length, facts)
    if not values:
        config, params = family.settled(config, params, special)
        values = _config_json(family, config, vocab_size, max_length, special)
    # The run may have been trained to begin otherwise than its source.
    files = {name: _beginning(content, special) for name, content in facts.get("files", {}).items()}
    if family.described(config, files, CONFIG) != config:  # the run read other pixels than its source
        files.pop(PREPROCESSOR, None)
    files = family.beside(config) | files
    values, facts = _beginning(values, special), facts | {"files": files}
    arrays = tensors.write(rows(), params, str(directory))
    own = next(iter(arrays.values())).dtype
    arrays |= {name: np.zeros(shape, own) for name, shape in family.zeros(config, vocab_size).items()}
    arrays, dtype = weights.narrowed(arrays, facts.get("dtype", ""))
    own = next(iter(arrays.values())).dtype
    arrays |= {name: array.astype(own) for name, array in family.constants(config).items()}
    arrays, values = {family.stored(config, name): arrays[name] for name in arrays}, values | {"dtype": dtype}
    partial = directory.with_name(directory.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_files(partial, family, values, arrays, tokenizer, special, facts, max_length, card)
        if directory.exists():
            directory.rmdir()  # an empty one
        os.replace(partial, directory)
    except OSError as error:
        raise DataError(
            "the model could not be written",
            where=str(directory),
            why=error.strerror or str(error),
            do="make room or name another directory",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def fitting(config: Model) -> Family:
    """The family that a model can be written as. ConfigError names the habits that none has."""
    families = [family for family in FAMILIES.values() if isinstance(config, family.kind)]
    differing = [family.differing(config) for family in families]
    best = min(range(len(families)), key=lambda index: len(differing[index]))
    refuse_habits(differing[best], families[best].architecture(config))
    return families[best]


def _family(values: dict[str, Any], where: str) -> Family:
    name = values.get("model_type")
    if name not in FAMILIES:
        raise DataError(
            f"models of type {name!r} cannot be imported",
            where=f"{where}: {CONFIG}: model_type",
            why=nearest(str(name), FAMILIES),
            do=f"import a model of one of the types {', '.join(FAMILIES)}",
        )
    return FAMILIES[name]


def _as_it_was(
    family: Family,
    config: StackConfig,
    names: Collection[str],
    vocab_size: int,
    max_length: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The source's config.json where it still describes the model with the tensors `names`; else {}."""
    makes = lambda config, *sizes: {
        name: value for name, value in family.from_config(config, *sizes).items() if "drop" not in name
    }
    source = facts.get("config", {})
    if source.get("model_type") != family.model_type:
        return {}
    old = family.to_config(Keys(source, CONFIG), names)
    if makes(old, family.rows(source), old.max_length) != makes(config, vocab_size, max_length):
        return {}
    kept = {key: value for key, value in source.items() if key != "torch_dtype"}
    return kept | {"architectures": [family.architecture(config)]}


def _beginning(values: dict[str, Any], special: Mapping[str, int]) -> dict[str, Any]:
    """The values with the id that the decoder reads first, where they name one."""
    key = "decoder_start_token_id"
    return values | {key: special["decoder_start"]} if key in values and "decoder_start" in special else values


def _config_json(
    family: Family, config: StackConfig, vocab_size: int, max_length: int, special: Mapping[str, int]
) -> dict[str, Any]:
    wanted = ("bos", "eos", "pad") if isinstance(config, StackConfig) else ()
    wanted += ("decoder_start",) if "decoder_start" in special else ()
    ids = {f"{name}_token_id": special.get(name) for name in wanted}
    made = family.from_config(config, vocab_size, max_length)
    if "text_config" in made:  # the special ids are those of one tower
        known = {name: token for name, token in special.items() if name in ("bos", "eos", "pad") and token < vocab_size}
        made["text_config"] = {f"{name}_token_id": token for name, token in known.items()} | made["text_config"]
    return {"architectures": [family.architecture(config)], "model_type": family.model_type, **made, **ids}


def _write_files(
    directory: Path,
    family: Family,
    values: dict[str, Any],
    arrays: dict[str, np.ndarray],
    tokenizer: str | Path | None,
    special: Mapping[str, int],
    facts: dict[str, Any],
    max_length: int,
    card: str,
) -> None:
    from safetensors.numpy import save_file

    files = dict(facts.get("files", {}))
    if tokenizer is not None:
        shutil.copyfile(tokenizer, directory / TOKENIZER)
        made = tokenizer_config(read_json(directory / TOKENIZER), values, special, max_length)
        files.setdefault("tokenizer_config.json", made)
    for name, content in {family.file: family.told(values), **files}.items():
        (directory / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    # Without the metadata transformers refuses it.
    save_file(arrays, directory / family.weights, metadata={"format": "pt"})
    if card:
        (directory / "README.md").write_text(card, encoding="utf-8")


def tokenizer_config(
    tokenizer: dict[str, Any], values: dict[str, Any], special: Mapping[str, int], max_length: int
) -> dict[str, Any]:
    """What `transformers` needs beside tokenizer.json: its class, and the names of the special tokens: those whose ids
    config.json has, or else those of `special`, which says more."""
    names = {token["id"]: token["content"] for token in tokenizer.get("added_tokens", ())}
    found = {}
    for name in NAMED:
        given = (values.get(f"{name}_token_id"), special.get(name))
        known = [names[token] for token in given if isinstance(token, int) and token in names]
        found |= {f"{name}_token": content for content in known[:1]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **found,
    }
