"""Checking a checkpoint on the host: the checksums of training (checksum.py), in NumPy, leaf by leaf. Nothing is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.training import base
from pretrainx.training.restore import OTHER_STEP, BaseError, FormatError, read_meta, steps_in

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}
_PIECE = 1 << 22  # words that are multiplied at once: memory stays bounded for leaves of any size


def checksum(leaf: np.ndarray) -> int:
    """The number that `pretrainx.training.checksum.checksum` gives for the same array: sum of word x (2 x index + 1) mod 2^32.

    64-bit elements are two words each, the lower half first.
    """
    leaf = np.ascontiguousarray(leaf)
    if leaf.dtype.byteorder == ">":
        leaf = leaf.astype(leaf.dtype.newbyteorder("<"))
    words = leaf.reshape(-1).view(_WORDS[leaf.dtype.itemsize])
    total = 0
    for start in range(0, words.size, _PIECE):
        piece = words[start : start + _PIECE].astype(np.uint32)
        weights = np.arange(start, start + piece.size, dtype=np.uint64) * 2 + 1
        total += int(np.sum(piece * weights.astype(np.uint32), dtype=np.uint64))
    return total % 2**32


def verify(directory: Path, step: int, shared: dict[str, dict] | None = None) -> Iterator[tuple[str, int]]:
    """(path, bytes) of each leaf of a step once it was found whole: its own, then those that lie in DIR/base.

    shared: what `whole_base` gave, where the base was read already. Raises CheckpointError naming the meta record, or the leaf
    that cannot be read, differs in form, or has another checksum; BaseError where that leaf is the base's.
    """
    leaves = sorted(read_meta(directory, step)["leaves"].items())
    for path, stated in leaves:
        if not stated.get("base"):
            yield path, _whole(directory / str(step), path, stated)
    of_base = [(path, stated) for path, stated in leaves if stated.get("base")]
    if of_base and shared is None:
        shared = whole_base(directory)
    for path, stated in of_base:
        where = f"{base.beside(directory) / str(base.STEP)}, leaf {path}"
        if path not in shared:
            raise BaseError.of(where, f"step {step} leaves it to the base, which does not have it")
        if shared[path] | {"base": True} != stated:
            found, saved = shared[path]["checksum"], stated["checksum"]
            raise BaseError.of(where, f"checksum {found:08x}, saved with step {step} {saved:08x}")
        yield path, size_of(stated)


def whole_base(directory: Path) -> dict[str, dict]:
    """{path: its entry in the base's meta record} of the leaves in the DIR/base beside `directory`, each read and found whole;
    {} without a base.

    Raises BaseError naming the meta record or the leaf that is not whole, FormatError for a base of another format.
    """
    beside = base.beside(directory)
    if base.STEP not in steps_in(beside):
        return {}
    try:
        leaves = read_meta(beside, base.STEP)["leaves"]
        for path, stated in leaves.items():
            _whole(beside / str(base.STEP), path, stated)
    except FormatError:
        raise
    except CheckpointError as error:
        raise BaseError.of(error.where, f"{error.what}: {error.why}") from error
    return leaves


def _whole(place: Path, path: str, stated: dict) -> int:
    """The bytes of a leaf that is what `stated` says; CheckpointError where it is not."""
    leaf = read_leaf(place, path, stated)
    why = ""
    if (list(leaf.shape), str(leaf.dtype)) != (stated["shape"], stated["dtype"]):
        why = f"{leaf.dtype}{list(leaf.shape)} on disk, {stated['dtype']}{stated['shape']} in its meta record"
    elif (found := checksum(leaf)) != stated["checksum"]:
        why = f"checksum {found:08x}, saved {stated['checksum']:08x}"
    if why:
        raise CheckpointError("a checkpoint is damaged", where=f"{place}, leaf {path}", why=why, do=OTHER_STEP)
    return leaf.nbytes


def size_of(stated: dict) -> int:
    """Bytes of a leaf as its meta record states it."""
    return math.prod(stated["shape"]) * np.dtype(stated["dtype"]).itemsize


def read_leaf(step: Path, path: str, stated: dict) -> np.ndarray:
    """One leaf of the checkpoint in the directory `step`, of which `stated` is the entry in its meta record; not verified."""
    import orbax.checkpoint as ocp

    form = jax.ShapeDtypeStruct(tuple(stated["shape"]), np.dtype(stated["dtype"]))
    restore = ocp.args.PyTreeRestore(
        item=paths.from_leaves([(path, form)]),
        restore_args=paths.from_leaves([(path, ocp.RestoreArgs(restore_type=np.ndarray))]),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.restore((step / "state").absolute(), args=restore)
    except Exception as error:  # whatever a damaged file makes the reader raise
        why = str(error).strip().split("\n")[0][:200] or repr(error)
        raise CheckpointError(
            "a checkpoint cannot be read",
            where=f"{step}, leaf {path}",
            why=why,
            do="remove the step, or put an intact copy of it back",
        ) from error
    return np.asarray(dict(paths.leaves(tree))[path])
