"""Tensors in safetensors files, whole or in shards, under the names and in the dtype that a table expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import DataError
from pretrainx.interop.family import WEIGHTS, Family
from pretrainx.models.stack import StackConfig

INDEX = "model.safetensors.index.json"
# How far a stored constant may lie from ours, which are at most 1: in float32, and in two bytes.
CONSTANT, NARROW = 1e-5, 2.0**-8
DTYPES = ("float32", "bfloat16", "float16", "float64")


def read(directory: Path, file: str = WEIGHTS) -> dict[str, np.ndarray]:
    """All tensors by name, of the one `file` or of the shards that an index names.

    Raises DataError for files that are missing or damaged, and for pickles, which are never opened.
    """
    if (directory / INDEX).is_file():
        index = read_json(directory / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(shard, str) for shard in index.values()):
            why = "it has no weight_map of file names"
            raise DataError("an index of shards is damaged", where=str(directory / INDEX), why=why, do="get it again")
        found, place = {}, {}
        for shard in sorted(set(index.values())):
            if Path(shard).name != shard:  # never out of the directory
                why = f"shard {shard!r} is no plain file name"
                raise DataError(
                    "an index of shards is damaged", where=str(directory / INDEX), why=why, do="get it again"
                )
            for name, array in _safetensors(directory / shard).items():
                found[name], place[name] = array, shard
        if place != index:
            differing = sorted(name for name in place.keys() | index.keys() if place.get(name) != index.get(name))
            raise DataError(
                "the shards do not hold what their index says",
                where=str(directory / INDEX),
                why="\n".join(f"{name}: in {place.get(name)}, index {index.get(name)}" for name in differing),
                do="download the model anew",
            )
        return found
    if (directory / file).is_file():
        return _safetensors(directory / file)
    pickled = sorted(path.name for suffix in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in directory.glob(suffix))
    raise DataError(
        "the weights are pickled" if pickled else "the directory has no weights",
        where=str(directory / (pickled[0] if pickled else file)),
        why="reading a pickle runs whatever code it holds" if pickled else "no such file, and no index of shards",
        do="save them as safetensors: model.save_pretrained(DIR) with the library that made them",
    )


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            "a file of weights cannot be read", where=str(path), why=str(error), do="download the model anew"
        ) from error
    return found


def named(family: Family, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under their full names, buffers left out."""
    full = {name: found[stored] for stored, name in family.full(found.keys()).items()}
    return {name: array for name, array in full.items() if not family.buffers.fullmatch(name)}


def without_copies(
    family: Family, config: StackConfig, tensors: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """Each tensor once, and none that must be zero. DataError where a copy differs, and where something is not zero."""
    full = dict(tensors)
    for name, original in family.copies(config).items():
        if name in full and not np.array_equal(full.setdefault(original, full[name]), full[name]):
            raise DataError(
                "the head is not the token table" if name.startswith(family.heads) else "a copy is not its original",
                where=f"{where}: {name}",
                why=f"as config.json has it (tie_word_embeddings) it is {original}, but the two tensors differ",
                do="set tie_word_embeddings to false in config.json if the two were trained apart",
            )
        full.pop(name, None)
    for name in family.zeros(config, 1):
        if np.any(full.pop(name, 0)):
            raise DataError(
                "a tensor has no place in a model of ours",
                where=f"{where}: {name}",
                why="it is not zero, and there is no leaf for it",
                do="import a model that was saved without it",
            )
    return full


def without_constants(
    constants: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """The tensors but those that are constants here. DataError where one is missing or another one, rounding aside."""
    for name, wanted in constants.items():
        found = tensors.get(name)
        if found is None or found.shape != wanted.shape:
            why = f"{'missing' if found is None else list(found.shape)}, expected {list(wanted.shape)}"
        else:
            apart = np.abs(found.astype(np.float64) - wanted).max()
            bound = CONSTANT if found.dtype.itemsize > 2 else NARROW
            if apart <= bound:
                continue
            why = f"up to {apart:.1e} away from what it must be; at most {bound:g} is rounding"
        raise DataError(
            "a table that is fixed here is another one",
            where=f"{where}: {name}",
            why=why,
            do="import a model whose positions are the sines and cosines of its paper: there is no leaf for others",
        )
    return {name: array for name, array in tensors.items() if name not in constants}


def in_one_dtype(full: dict[str, np.ndarray], where: str) -> tuple[dict[str, np.ndarray], str]:
    """(the tensors in one dtype, the widest of theirs; its name)"""
    dtypes = {array.dtype for array in full.values()}
    if odd := sorted(f"{name}: {array.dtype}" for name, array in full.items() if array.dtype.name not in DTYPES):
        raise DataError(
            "the weights have a dtype that cannot be read",
            where=where,
            why="\n".join(odd),
            do="give " + ", ".join(DTYPES) + "; quantised weights have to be dequantised first",
        )
    if len(dtypes) > 1:  # the widest loses nothing
        widest = np.float64 if np.dtype(np.float64) in dtypes else np.float32
        full = {name: array.astype(widest) for name, array in full.items()}
        return full, np.dtype(widest).name
    return full, next(iter(dtypes)).name if dtypes else "float32"


def narrowed(arrays: dict[str, np.ndarray], dtype: str) -> tuple[dict[str, np.ndarray], str]:
    """The tensors in the dtype of the source where that loses nothing, else as they are; and the name of the dtype."""
    own = next(iter(arrays.values())).dtype.name
    if dtype not in DTYPES or dtype == own:
        return arrays, own
    import ml_dtypes

    wanted = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with np.errstate(over="ignore"):
        narrow = {name: array.astype(wanted) for name, array in arrays.items()}
    if all(np.array_equal(narrow[name].astype(array.dtype), array) for name, array in arrays.items()):
        return narrow, dtype
    return arrays, own


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; DataError where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            "a file of the model cannot be read", where=str(path), why=str(error), do="download the model anew"
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            "a file of the model is damaged", where=str(path), why="it holds no JSON object", do="get it again"
        )
    return found
