"""Looking at the checkpoints of a run from outside, also while it trains: list, inspect, verify. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pretrainx.core import config as strict
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.core.json_lines import read_metrics
from pretrainx.core.readable import duration
from pretrainx.runs.disk import bytes_under
from pretrainx.training.restore import FormatError, read_meta, steps_in
from pretrainx.training.verify import size_of, verify

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
    """A line per step: size, age, the losses logged at it; then steps set aside as damaged and saves that never ended."""
    directory = directory_of(workdir)
    losses = {record["step"]: record for record in read_metrics(Path(workdir) / "metrics.jsonl")}
    rows = [("step", "size", "saved", "train loss", "held-out loss", "")]
    for step in steps_in(directory):
        try:
            saved, note = f"{duration(max(time.time() - read_meta(directory, step)['saved'], 0))} ago", ""
        except FormatError as error:
            saved, note = "?", f"{error.what}: {error.why}"
        except CheckpointError as error:
            saved, note = "?", f"damaged: {error.what}"
        record = losses.get(step, {})
        shown = [_number(record.get(name)) for name in ("train/loss", "eval/held_out/loss")]
        rows.append((str(step), _mebi(bytes_under(directory / str(step))), saved, *shown, note))
    for path in sorted(directory.glob("*.corrupt*")):
        rows.append((path.name, _mebi(bytes_under(path)), "", "", "", "damaged, set aside by training"))
    for path in sorted(directory.glob("*.orbax-checkpoint-tmp*")):
        step = path.name.partition(".")[0]
        rows.append((step, _mebi(bytes_under(path)), "", "", "", "being written, or a save that was cut short"))
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
    rows = [("leaf", "shape", "dtype", "bytes", "checksum")]
    for path, leaf in sorted(meta["leaves"].items()):
        shape = "x".join(map(str, leaf["shape"])) or "scalar"
        rows.append((path, shape, leaf["dtype"], f"{size_of(leaf):,}", f"{leaf['checksum']:08x}"))
    for line in _aligned(rows):
        say(line)
    say(f"{len(meta['leaves'])} leaves, {sum(map(size_of, meta['leaves'].values())):,} bytes")
    return 0


def verified(workdir: str | Path, step: int | None = None, say: Say = print) -> int:
    """Reads every leaf of a step (default: of all steps) and compares its checksum.

    All steps are looked at before CheckpointError names the first damaged leaf of each that is not whole; FormatError where
    none is damaged, but another version of pretrainx wrote one of them.
    """
    directory = directory_of(workdir)
    damaged, foreign = [], []
    for number in steps_in(directory) if step is None else [_known(directory, step)]:
        started, count, size = time.perf_counter(), 0, 0
        try:
            for _, of_leaf in verify(directory, number):
                count, size = count + 1, size + of_leaf
        except FormatError as error:
            foreign.append(error)
            say(f"step {number}: not verified, {error.what}: {error.why}; {error.do}")
            continue
        except CheckpointError as error:
            damaged.append(error)
            say(f"step {number}: DAMAGED, {error.what}: {error.where}: {error.why}")
            continue
        say(f"step {number}: whole, {count} leaves, {_mebi(size)}, {time.perf_counter() - started:.1f} s")
    if not damaged and step is None and not steps_in(directory):
        say(f"{directory} holds no checkpoint")
    if damaged:
        raise CheckpointError(
            f"{len(damaged)} damaged checkpoint{'s' if len(damaged) > 1 else ''}",
            where="\n".join(error.where for error in damaged),
            why="\n".join(f"{error.what}: {error.why}" for error in damaged),
            do="nothing was changed; training again sets damaged steps aside and goes on from the newest whole one",
        )
    if foreign:
        raise foreign[-1]
    return 0


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


def _mebi(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
