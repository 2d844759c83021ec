"""The checkpoints of a run: one Orbax composite {state, meta} per step.

`meta` holds the resolved config, the data fingerprint, versions and a table of leaves with a checksum each.
"""

from __future__ import annotations

import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax

from pretrainx import __version__
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.parallel import distributed
from pretrainx.training import base
from pretrainx.training.checksum import diverged, examine
from pretrainx.training.restore import (
    FORMAT,
    BaseError,
    FormatError,
    MisfitError,
    Restored,
    as_tree,
    digest,
    read_meta,
    restore_step,
    steps_in,
)
from pretrainx.training.state import TrainState

FAILED_SAVES = 3
RESTART = "start from another run, or from another of its steps (config.init.step)"


class Checkpoints:
    """The checkpoints of a run: saves in the background, keeps the last few, restores the newest that is whole."""

    def __init__(self, directory: Path, keep: int, event=lambda kind, **facts: None):
        import orbax.checkpoint as ocp

        self.directory, self.event, self.failed, self.in_flight = Path(directory).absolute(), event, 0, None
        self.trouble = ""  # why the last save failed
        self.shared: dict[str, dict] = {}  # the entries in the base's meta record of leaves that steps leave out
        distributed.decided("checkpoints", self._prepare)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        if distributed.count() > 1:
            # With processes named, Orbax waits at the coordination service. Otherwise it would compute on the devices, in
            # the thread that saves, while training computes there too: collectives of two programs would meet each other.
            everyone = set(range(distributed.count()))
            options.create = False
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(active_processes=everyone)
        self.manager = ocp.CheckpointManager(self.directory, options=options)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._clear()

    def _clear(self) -> None:
        """Removes what saves that never ended have left."""
        for left_over in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left_over, ignore_errors=True)

    def save(self, state: TrainState, facts: dict[str, Any]) -> bool:
        """Starts saving; True if it did. A non-finite state is never saved, a step on disk not again.

        `facts` are plain values for the meta record: config, fingerprints, wall time.
        """
        return self._save(int(state.step), as_tree(state), facts)

    def keep_base(self, state: TrainState, constants: tuple[str, ...], facts: dict[str, Any]) -> None:
        """Stores once what the run never changes (`base.constant_paths`); the steps that are saved from now on leave it out.

        The base of a start that left no step is made anew. That of a run that goes on stays as it is: of what it lacks, or has
        otherwise, every step keeps its own, and a warning says so. CheckpointError where it cannot be stored.
        """
        chosen = base.constant_paths(state, constants)
        directory = base.beside(self.directory)
        if not distributed.decided("base", lambda: self._has_base(directory)):
            if not chosen:
                return
            warn = lambda kind, **facts: self.event(kind, **facts) if kind == "warning" else None
            kept = Checkpoints(directory, 1, warn)
            leaves = ((path, leaf) for path, leaf in paths.leaves(as_tree(state)) if path in chosen)
            if not kept._save(base.STEP, paths.from_leaves(leaves), facts):
                why = kept.trouble
                raise CheckpointError("frozen parameters cannot be stored", where=str(directory), why=why, do=RESTART)
            kept.demand(base.STEP)
            kept.close()
        stored = distributed.decided("shared", lambda: read_meta(directory, base.STEP))["leaves"]
        self.shared = {path: stored[path] for path in chosen & stored.keys()}
        tree = paths.from_leaves((path, leaf) for path, leaf in paths.leaves(as_tree(state)) if path in self.shared)
        sums = jax.device_get(distributed.settled(examine(tree)))[0]
        other = sum(int(sums[path]) != entry["checksum"] for path, entry in self.shared.items())
        if other := other + len(chosen - stored.keys()):
            text = f"{other} of {len(chosen)} frozen leaves are not those of {directory}: every step stores them"
            self.event("warning", text=text)

    def _has_base(self, directory: Path) -> bool:
        """Whether there is a base to go on with; what a start without a step has left is removed."""
        if not steps_in(self.directory):
            shutil.rmtree(directory, ignore_errors=True)
        return bool(steps_in(directory))

    def _save(self, step: int, tree: paths.Tree, facts: dict[str, Any]) -> bool:
        import orbax.checkpoint as ocp

        # Decided by one: a directory may look older from another host, and what follows takes every process.
        if distributed.decided("saved", lambda: step in steps_in(self.directory) or step == self.in_flight):
            return False
        found = distributed.settled(examine(tree))
        sums, finite = jax.device_get(found)
        apart = distributed.first_trouble("replicas", ", ".join(diverged(found[0])[:1]))
        seen = distributed.exchange("sums", digest({path: int(leaf_sum) for path, leaf_sum in sums.items()}))
        if not finite or apart or len(set(seen)) > 1:
            self.trouble = "the state is not finite"
            if finite:
                self.trouble = f"devices that should hold the same numbers do not: leaf {apart or 'unknown'}"
            self.event("warning", step=step, text=f"{self.trouble}: not saved")
            return False
        meta = facts | {
            "format": FORMAT,
            "step": step,
            "saved": time.time(),
            "versions": versions(),
            "leaves": {
                path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "checksum": int(sums[path])}
                for path, leaf in paths.leaves(tree)
            },
        }
        for path, entry in meta["leaves"].items():
            if self.shared.get(path) == entry:
                entry["base"] = True
        tree = paths.split(tree, lambda path: "base" not in meta["leaves"][path])[0]
        meta = json.loads(json.dumps(meta))  # as it will be read back: tuples are lists
        meta["digest"] = digest(meta)
        items = {"state": ocp.args.StandardSave(tree), "meta": ocp.args.JsonSave(meta)}
        if not self._watched(lambda: self.manager.save(step, args=ocp.args.Composite(**items), force=True)):
            return False
        self._settle()  # the save before this one: the manager has waited for it
        self.in_flight = step
        self.event("saving", step=step)
        return True

    def poll(self) -> None:
        """Notices a background save that became durable, or failed; CheckpointError after three failed in a row."""
        self._watched(self.manager.check_for_errors)
        self._settle()

    def wait(self) -> None:
        """Until what was saved is durable."""
        self._watched(self.manager.wait_until_finished)
        self._settle()

    def demand(self, step: int) -> None:
        """Until `step` is durable; CheckpointError where it is not: what a run ends with must not be lost quietly."""
        self.wait()

        def look() -> None:
            if step not in steps_in(self.directory):
                raise self._unsaved(f"step {step} could not be saved")

        distributed.decided("demand", look)

    def close(self) -> None:
        self.wait()
        self.manager.close()

    def _settle(self) -> None:
        if self.in_flight is not None and self.in_flight in steps_in(self.directory):
            self.event("saved", step=self.in_flight)
            self.failed, self.in_flight = 0, None

    def _unsaved(self, what: str) -> CheckpointError:
        steps = steps_in(self.directory)
        do = f"make room and run the same command again; the last good step is {steps[-1] if steps else 'none'}"
        return CheckpointError(what, where=str(self.directory), why=self.trouble, do=do)

    def _watched(self, action) -> bool:
        """Whether the action went through."""
        try:
            action()
            return True
        except Exception as error:  # disk full, permissions, a lost mount: training goes on, loudly
            self.failed += 1
            self.in_flight = None
            self.trouble = str(error).strip().split("\n")[0][:200] or repr(error)
            self.event("warning", text=f"a checkpoint was not saved: {self.trouble}")
            if distributed.leads():
                self._clear()
            if self.failed >= FAILED_SAVES:
                raise self._unsaved(f"{FAILED_SAVES} checkpoints in a row could not be saved") from error
            return False

    def restore_newest(self, like: TrainState, fresh_optimizer) -> Restored | None:
        """The newest step that reads back whole; damaged ones are renamed `<step>.corrupt` and named. None without any.

        Of many processes all take the same step: process 0 lists and renames, and what one cannot read is damaged for all.
        Raises CheckpointError when there are steps and none is usable, or when the configuration does not fit.
        """
        steps = distributed.decided("steps", lambda: steps_in(self.directory))
        last: CheckpointError | None = None
        for step in reversed(steps):
            try:
                return restore_step(self.directory, step, like, fresh_optimizer)
            except (MisfitError, FormatError, BaseError):
                raise
            except CheckpointError as error:
                last = error
                aside = distributed.decided("set aside", functools.partial(self._set_aside, step))
                self.event("warning", step=step, text=f"{error.what}: {error.where}: {error.why}", moved=aside)
                self.manager.reload()
        damaged = distributed.decided(
            "damaged", lambda: sorted(path.name for path in self.directory.glob("*.corrupt*"))
        )
        if damaged:  # also where an earlier start set them aside: starting afresh beside them would bury the run
            raise CheckpointError(
                "no checkpoint is usable",
                where=last.where if last else str(self.directory),
                why=f"{last.what}: {last.why}" if last else "every step was damaged and is set aside",
                do="train anew in another --workdir, or put an intact copy of a step back; kept to look at: "
                + ", ".join(str(self.directory / name) for name in damaged),
            )
        return None

    def _set_aside(self, step: int) -> str:
        aside = self.directory / f"{step}.corrupt"
        while aside.exists():  # the same step was damaged before
            aside = aside.with_name(aside.name + "+")
        (self.directory / str(step)).rename(aside)
        return str(aside)


def versions() -> dict[str, str]:
    import flax
    import optax
    import orbax.checkpoint as ocp

    modules = {"jax": jax, "flax": flax, "optax": optax, "orbax": ocp}
    return {"pretrainx": __version__} | {name: module.__version__ for name, module in modules.items()}
