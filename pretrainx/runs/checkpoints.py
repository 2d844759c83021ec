"""Looking at the checkpoints of a run from outside, also while it trains: list, inspect, verify. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pretrainx.core import config as strict
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.core.json_lines import read_metrics
from pretrainx.core.readable import duration, size
from pretrainx.runs.disk import bytes_under
from pretrainx.training import base
from pretrainx.training.restore import BaseError, FormatError, read_meta, steps_in
from pretrainx.training.verify import size_of, verify, whole_base

Say = Callable[[str], None]


def directory_of(workdir: str | Path) -> Path:
    """The run's directory of checkpoints; ConfigError where there is no such run."""
    directory = Path(workdir) / "checkpoints"
    if not directory.is_dir():
        raise ConfigError(
            "the workdir has no checkpoints",
            where=str(directory),
            why="no such directory",
            do="name the directory that `pretrainx train` was given as --workdir",
        )
    return directory


def listed(workdir: str | Path, say: Say = print) -> int:
    """A line per step: size, age, the losses logged at it; then the base, whose bytes are no step's, steps set aside as damaged
    and saves that never ended."""
    directory = directory_of(workdir)
    losses = {record["step"]: record for record in read_metrics(Path(workdir) / "metrics.jsonl")}
    rows = [("step", "size", "saved", "train loss", "held-out loss", "")]
    for step in steps_in(directory):
        record = losses.get(step, {})
        shown = [_number(record.get(name)) for name in ("train/loss", "eval/held_out/loss")]
        saved, note = _age(directory, step)
        rows.append((str(step), size(bytes_under(directory / str(step))), saved, *shown, note))
    beside = base.beside(directory)
    for step in steps_in(beside):
        saved, note = _age(beside, step)
        note = note or "frozen parameters, stored once for all steps"
        rows.append(("base", size(bytes_under(beside / str(step))), saved, "", "", note))
    for path in sorted(directory.glob("*.corrupt*")):
        rows.append((path.name, size(bytes_under(path)), "", "", "", "damaged, set aside by training"))
    for path in sorted(directory.glob("*.orbax-checkpoint-tmp*")):
        step = path.name.partition(".")[0]
        rows.append((step, size(bytes_under(path)), "", "", "", "being written, or a save that was cut short"))
    if len(rows) == 1:
        say(f"{directory} holds no checkpoint")
        return 0
    for line in _aligned(rows):
        say(line)
    return 0


def inspected(workdir: str | Path, step: int | None = None, say: Say = print) -> int:
    """What the meta record of a step (default: the newest) says: config, versions, data, leaves. No array is read."""
    directory = directory_of(workdir)
    step = _known(directory, step)
    meta = read_meta(directory, step)
    say(
        f"step {step} | saved {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(meta['saved']))} | format {meta['format']}"
    )
    say("versions: " + ", ".join(f"{name} {version}" for name, version in meta["versions"].items()))
    say(f"wall time so far {duration(meta['wall'])}")
    for title, values in (("config", meta["config"]), ("data", meta["data"])):
        say(f"\n== {title} ==")
        for path, value in strict.flatten(values):
            say(f"{path} = {value!r}")
    say("\n== leaves ==")
    rows = [("leaf", "shape", "dtype", "bytes", "checksum", "")]
    for path, leaf in sorted(meta["leaves"].items()):
        shape, place = "x".join(map(str, leaf["shape"])) or "scalar", "base" if leaf.get("base") else ""
        rows.append((path, shape, leaf["dtype"], f"{size_of(leaf):,}", f"{leaf['checksum']:08x}", place))
    for line in _aligned(rows):
        say(line)
    own, shared = (
        [size_of(leaf) for leaf in meta["leaves"].values() if leaf.get("base", False) == of_base]
        for of_base in (False, True)
    )
    of_base = f", and {len(shared)} leaves, {sum(shared):,} bytes, in {base.beside(directory)}" if shared else ""
    say(f"{len(own)} leaves, {sum(own):,} bytes{of_base}")
    return 0


def verified(workdir: str | Path, step: int | None = None, say: Say = print) -> int:
    """Reads every leaf of a step (default: of all steps) and compares its checksum; the base's, which are all steps', once.

    All steps are looked at before BaseError names what is not whole of the base, or else CheckpointError the first damaged leaf
    of each step that is not whole; FormatError where none is damaged, but another version of pretrainx wrote one of them.
    """
    directory = directory_of(workdir)
    numbers = steps_in(directory) if step is None else [_known(directory, step)]
    shared, trouble = _verified_base(directory, say)
    damaged, foreign = [], []
    for number in numbers:
        started, count, total = time.perf_counter(), 0, 0
        try:
            for _, of_leaf in verify(directory, number, shared):
                count, total = count + 1, total + of_leaf
        except BaseError as error:
            why = "" if trouble else f": {error.where}: {error.why}"
            trouble = trouble or error
            say(f"step {number}: its own leaves are whole, those of the base are not{why}")
            continue
        except FormatError as error:
            foreign.append(error)
            say(f"step {number}: not verified, {error.what}: {error.why}; {error.do}")
            continue
        except CheckpointError as error:
            damaged.append(error)
            say(f"step {number}: DAMAGED, {error.what}: {error.where}: {error.why}")
            continue
        say(f"step {number}: whole, {count} leaves, {size(total)}, {time.perf_counter() - started:.1f} s")
    if not numbers:
        say(f"{directory} holds no checkpoint")
    if isinstance(trouble, BaseError):
        raise trouble
    if damaged:
        raise CheckpointError(
            f"{len(damaged)} damaged checkpoint{'s' if len(damaged) > 1 else ''}",
            where="\n".join(error.where for error in damaged),
            why="\n".join(f"{error.what}: {error.why}" for error in damaged),
            do="nothing was changed; training again sets damaged steps aside and goes on from the newest whole one",
        )
    if trouble or foreign:
        raise trouble or foreign[-1]
    return 0


def _verified_base(directory: Path, say: Say) -> tuple[dict[str, dict], CheckpointError | None]:
    """(what `whole_base` gives, {} where it is not whole; why it is not)."""
    started = time.perf_counter()
    try:
        shared = whole_base(directory)
    except FormatError as error:
        say(f"base: not verified, {error.what}: {error.why}; {error.do}")
        return {}, error
    except BaseError as error:
        say(f"base: DAMAGED, {error.where}: {error.why}")
        return {}, error
    if shared:
        total = sum(map(size_of, shared.values()))
        say(f"base: whole, {len(shared)} leaves of all steps, {size(total)}, {time.perf_counter() - started:.1f} s")
    return shared, None


def _age(directory: Path, step: int) -> tuple[str, str]:
    """(how long ago a step was saved, what is wrong with its meta record or "")."""
    try:
        return f"{duration(max(time.time() - read_meta(directory, step)['saved'], 0))} ago", ""
    except FormatError as error:
        return "?", f"{error.what}: {error.why}"
    except CheckpointError as error:
        return "?", f"damaged: {error.what}"


def _known(directory: Path, step: int | None) -> int:
    steps = steps_in(directory)
    if steps and step is None:
        return steps[-1]
    if step not in steps:
        raise CheckpointError(
            "there is no checkpoint" + ("" if step is None else f" of step {step}"),
            where=str(directory),
            why=f"steps there: {', '.join(map(str, steps)) or 'none'}",
            do="name one of them with --step=N",
        )
    return step


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
