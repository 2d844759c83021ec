"""Reading a checkpoint: the form of a saved state, the meta record, verified leaves, a state, the newest that is whole.

The state is saved with ONE parameter tree and optimizer states by name, so that freezing, averaging or clipping may change
between two runs of the same command.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.parallel import distributed
from pretrainx.training import base
from pretrainx.training.checksum import examine
from pretrainx.training.state import TrainState, averages

FORMAT = 1
# What to do about a damaged step.
OTHER_STEP = "remove the step, or put an intact copy of it back; training would set it aside and use the one before"


class MisfitError(CheckpointError):
    """The checkpoint is whole, but not of this configuration: an older step would not be either."""


class BaseError(CheckpointError):
    """What all steps share, DIR/base, is missing or damaged: no step can be used, and none is to blame."""

    @classmethod
    def of(cls, where: str, why: str) -> BaseError:
        return cls(
            "the frozen parameters that all steps share are not whole",
            where=where,
            why=why,
            do="put an intact copy of DIR/base back; the steps themselves were left as they are",
        )


class FormatError(CheckpointError):
    """The checkpoint was written by a version of pretrainx that lays it out otherwise."""


def as_tree(state: TrainState) -> paths.Tree:
    """The state as it is saved: {step, params, optimizer, extras, ema, guard}, nested dicts of arrays."""
    tree = {
        "step": state.step,
        "params": state.full_params(),
        "optimizer": paths.names_of(state.opt_state),
        "extras": state.extras,
        "ema": state.ema,
        "guard": state.guard,
    }
    return paths.from_leaves(paths.leaves(tree))


def from_tree(tree: paths.Tree, like: TrainState) -> TrainState:
    """The inverse of `as_tree`, in the form of `like` (which says what is trained and what is frozen)."""
    found, form = jax.tree_util.tree_flatten_with_path(like.opt_state)
    moments = dict(paths.leaves(tree.get("optimizer", {})))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found]
    return TrainState(
        step=tree["step"],
        params=paths.restrict(tree["params"], like=like.params),
        frozen=paths.restrict(tree["params"], like=like.frozen),
        opt_state=jax.tree_util.tree_unflatten(form, [moments[name] for name in names]),
        extras=_formed(tree.get("extras", {}), like.extras),
        ema=tree.get("ema", {}),
        guard=tree["guard"],
    )


def _formed(tree: paths.Tree, like: paths.Tree) -> paths.Tree:
    """`tree` with the empty branches that `like` has: they are not saved."""
    leaf = dict(paths.leaves(tree))
    return paths.map_leaves(lambda path, _: leaf[path], like)


def steps_in(directory: Path) -> list[int]:
    """The durable steps on disk, oldest first. (A manager's `latest_step` also names one that is being written.)"""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit()) if directory.is_dir() else []


def digest(meta: dict) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_meta(directory: Path, step: int) -> dict:
    """The meta record of a step; CheckpointError when it is missing, torn or altered."""
    path = directory / str(step) / "meta" / "metadata"
    try:
        meta = json.loads(path.read_text())
        stated = meta.pop("digest")
    except (OSError, ValueError, KeyError) as error:
        what, why = "a checkpoint has no readable meta record", repr(error)
        raise CheckpointError(what, where=str(path), why=why, do=OTHER_STEP) from error
    if digest(meta) != stated:
        what, why = "a checkpoint's meta record was altered", "its own digest differs"
        raise CheckpointError(what, where=str(path), why=why, do=OTHER_STEP)
    if meta["format"] != FORMAT:
        raise FormatError(
            "a checkpoint of another format",
            where=str(path),
            why=f"format {meta['format']}, this version reads {FORMAT}",
            do=f"read it with pretrainx {meta['versions']['pretrainx']}",
        )
    return meta


def read_leaves(
    directory: Path, step: int, wanted: dict[str, jax.ShapeDtypeStruct], meta: dict
) -> dict[str, jax.Array]:
    """The wanted leaves {path: abstract leaf with sharding} of a step, verified; CheckpointError names a damaged leaf.

    Those that the run never changes come from DIR/base; BaseError where they are not whole.
    """
    shared = {path: leaf for path, leaf in wanted.items() if meta["leaves"][path].get("base")}
    own = {path: leaf for path, leaf in wanted.items() if path not in shared}
    found = _read_verified(directory / str(step), own, meta) if own else {}
    if shared:
        try:
            found |= _read_verified(base.beside(directory) / str(base.STEP), shared, meta)
        except CheckpointError as error:
            raise BaseError.of(error.where, f"{error.what}: {error.why}") from error
    return found


def _read_verified(where: Path, wanted: dict[str, jax.ShapeDtypeStruct], meta: dict) -> dict[str, jax.Array]:
    """Leaves from the directory of a checkpoint, compared with the checksums of a meta record."""
    import orbax.checkpoint as ocp

    item = paths.from_leaves(wanted.items())
    restore = ocp.args.PyTreeRestore(
        item=item, restore_args=ocp.checkpoint_utils.construct_restore_args(item), partial_restore=True
    )
    # Each process reads its parts by itself: one that meets a damaged file must not leave the others at Orbax's barrier.
    alone = ocp.options.MultiprocessingOptions(
        distributed.index(), {distributed.index()}, f"reader{distributed.index()}"
    )
    options = {"multiprocessing_options": alone} if distributed.count() > 1 else {}
    why, cause = "", None
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options), **options) as reader:
            tree = reader.restore((where / "state").absolute(), args=restore)
    except jax.errors.JaxRuntimeError:  # the device's trouble, such as too little memory: the files may be whole
        raise
    except Exception as error:  # whatever a damaged file makes the reader raise
        why, cause = str(error).strip().split("\n")[0][:200] or repr(error), error
    if why := distributed.first_trouble("read", why):
        raise CheckpointError("a checkpoint cannot be read", where=str(where), why=why, do=OTHER_STEP) from cause
    sums, _ = jax.device_get(distributed.settled(examine(tree)))
    differing = ""
    for path, leaf_sum in sums.items():
        if int(leaf_sum) != meta["leaves"][path]["checksum"]:
            differing = f"{path}: checksum {int(leaf_sum):08x}, saved {meta['leaves'][path]['checksum']:08x}"
            break
    # Each process has sums of its own devices: where one of them sees damage, all set the step aside.
    if differing := distributed.first_trouble("checksums", differing):
        path, _, why = differing.partition(": ")
        raise CheckpointError("a checkpoint is damaged", where=f"{where}, leaf {path}", why=why, do=OTHER_STEP)
    return dict(paths.leaves(tree))


@dataclass(frozen=True)
class Restored:
    """A state read back, the meta record of its step, and lines on what was not as it is now."""

    state: TrainState
    meta: dict
    lines: list[str]


def restore_step(directory: Path, step: int, like: TrainState, fresh_optimizer) -> Restored:
    """The state of one step in the form and sharding of the abstract state `like`.

    Parameters and extras must be the same leaves; optimizer states, averages and guard counters that are missing start
    afresh, with a line, and those no longer wanted are dropped. `fresh_optimizer(params)` gives initial states.
    """
    meta = distributed.decided("meta", lambda: read_meta(directory, step))
    stored, wanted = meta["leaves"], dict(paths.leaves(as_tree(like)))
    where = str(directory / str(step))
    lines, common = [], {}
    for path in sorted(stored.keys() | wanted.keys()):
        section = path.split("/")[0]
        if path in stored and path in wanted:
            old, new = (tuple(stored[path]["shape"]), stored[path]["dtype"]), wanted[path]
            if old != (new.shape, str(new.dtype)):
                raise MisfitError(
                    "the checkpoint does not fit the configuration",
                    where=f"{where}, leaf {path}",
                    why=f"checkpoint {old[1]}{list(old[0])}, configuration {new.dtype}{list(new.shape)}",
                    do="go back to the configuration in config.json, or start in another --workdir",
                )
            common[path] = new
        elif section in ("params", "extras"):
            has, lacks = ("checkpoint", "configuration") if path in stored else ("configuration", "checkpoint")
            raise MisfitError(
                "the checkpoint does not fit the configuration",
                where=f"{where}, leaf {path}",
                why=f"the {has} has it, the {lacks} does not",
                do="go back to the configuration in config.json, or start in another --workdir",
            )
        else:
            lines.append(
                f"{path}: " + ("no longer kept, dropped" if path in stored else "not in the checkpoint, started afresh")
            )
    leaves = read_leaves(directory, step, common, meta)
    tree = paths.from_leaves(leaves.items())
    missing = wanted.keys() - leaves.keys()
    if missing:
        trained = paths.restrict(tree["params"], like=like.params)
        fresh = {
            "optimizer": paths.names_of(distributed.settled(fresh_optimizer(trained))),
            "ema": averages(trained),
        }
        fresh["guard"] = jax.tree.map(
            lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), like.guard
        )
        given = dict(paths.leaves(fresh))
        tree = paths.from_leaves(
            (path, leaves[path] if path in leaves else jax.device_put(given[path], wanted[path].sharding))
            for path in wanted
        )
    return Restored(from_tree(tree, like), meta, lines)


def newest_whole(directory: Path, read: Callable[[int, dict], Any], step: int = -1) -> Any:
    """`read(step, meta)` of the newest step that reads back whole, for parameters of another run (`init_from`); or of `step`.

    Raises CheckpointError where there is none; what says that the run is not of this kind ends the search.
    """
    steps = distributed.decided("steps", lambda: steps_in(directory))
    if step >= 0 and steps:
        if step not in steps:
            raise CheckpointError(
                "the run to start from has no such checkpoint",
                where=f"config.init.step={step}",
                why=f"{directory} has the steps {', '.join(map(str, steps))}",
                do="choose one of these, or -1 for the newest",
            )
        steps = [step]
    if not steps:
        raise CheckpointError(
            "there is no checkpoint to start from",
            where=str(directory),
            why="no step was saved there",
            do="set config.init_from to the workdir of a run",
        )
    damaged = []
    for step in reversed(steps):
        try:
            return read(step, distributed.decided("meta", functools.partial(read_meta, directory, step)))
        except (MisfitError, FormatError, BaseError):
            raise
        except CheckpointError as error:
            damaged.append(f"{error.where}: {error.why}")
    raise CheckpointError(
        "no checkpoint to start from is usable",
        where=str(directory),
        why="\n".join(damaged),
        do="put an intact copy of a step back, or set config.init_from to another run",
    )
