"""Directories of prepared data: they appear complete or not at all, and open only where every file is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pretrainx.core.config import difference
from pretrainx.core.errors import DataError

DESCRIPTION = "data.json"
Prepared = TypeVar("Prepared")


def once(
    directory: Path, make: Callable[[Path], None], use: Callable[[], Prepared], log: Callable[[str], None]
) -> Prepared:
    """What `use` opens from `directory`, after `make` has filled it where there was nothing.

    `make` is given a sibling directory that takes the name when complete, so half a preparation never looks whole; of two
    processes that prepare at once, one wins and the other uses its result. Raises DataError where the file system fails.
    """
    if directory.is_dir() and any(directory.iterdir()):
        return use()
    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in sorted(directory.parent.glob(f".{directory.name}.preparing-*")):
        log(f"data: {leftover} is an unfinished preparation; remove it if no process is writing it")
    # Not mkdtemp: its directories are closed to others, and this one stays.
    work = directory.parent / f".{directory.name}.preparing-{uuid.uuid4().hex[:12]}"
    work.mkdir()
    try:
        make(work)
        try:
            os.rename(work, directory)
        except OSError:
            if not (directory / DESCRIPTION).is_file():
                raise
            return use()  # another process was faster
        sync_directory(directory.parent)
    except OSError as error:
        raise DataError(
            "the data could not be prepared",
            where=str(directory),
            why=str(error),
            do="make room, mend permissions or choose another directory (config.data.cache), then run again",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return use()


def refuse_another(directory: Path, made: dict[str, Any], asked: dict[str, Any]) -> None:
    """DataError with the fields and both values where a directory was made with another configuration."""
    if differing := difference(made, asked):
        raise DataError(
            "the prepared data were made with another configuration",
            where=", ".join(f"config.data.{path}" for path, _, _ in differing),
            why="\n".join(f"{path}: prepared {made!r}, asked {asked!r}" for path, made, asked in differing),
            do=f"prepare elsewhere (another workdir or config.data.cache), or remove {directory} to prepare anew",
        )


def write_description(directory: Path, meta: dict[str, Any]) -> None:
    """Writes data.json with a digest of itself, and forces it and its directory to the disk."""
    path = directory / DESCRIPTION
    with path.open("w", encoding="utf-8") as stream:
        json.dump({**meta, "digest": _digest_of(meta)}, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    sync_directory(directory)


def read_description(directory: Path, kind: str, version: int) -> dict[str, Any]:
    """The content of data.json without its digest. Raises DataError where it is not of this kind and format version."""
    path = directory / DESCRIPTION
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"a directory does not hold prepared {kind}",
            where=str(path),
            why=str(error),
            do="choose an empty or new directory, or remove this one if nothing in it is needed",
        ) from error
    except ValueError as error:
        raise damaged(path, str(error)) from error
    if not isinstance(meta, dict):
        raise damaged(path, "it holds no JSON object")
    if kind_of(meta) != kind:
        raise DataError(
            f"a directory does not hold prepared {kind}",
            where=str(path),
            why=f"it holds prepared {kind_of(meta)}",
            do="choose another directory (another workdir or config.data.cache)",
        )
    if meta.get("format") != version:
        raise DataError(
            "the prepared data have another format version",
            where=str(path),
            why=f"version {meta.get('format')}, this program reads {version}",
            do=f"remove {directory} and run again: the data are prepared anew",
        )
    if meta.pop("digest", None) != _digest_of(meta):
        raise damaged(path, "its content does not match its own digest")
    return meta


def kind_of(meta: dict[str, Any]) -> str:
    """What a description is of: "text", "pictures" or "pairs"."""
    return meta.get("kind", "text")  # text was there before there was anything else


def held_kind(directory: str | Path) -> str:
    """What a directory holds by its own account: "text", "pictures" or "pairs"; "" where that cannot be read."""
    try:
        return kind_of(json.loads((Path(directory) / DESCRIPTION).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return ""


def check_file(path: Path, expected: str, holds: str) -> None:
    """DataError where a file's sha256 is not `expected`; `holds` is what the error says it was prepared with."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise damaged(path, str(error)) from error
    if found != expected:
        there = f"sha256 {found[:12]}... of {path.stat().st_size} bytes"
        raise damaged(path, f"{there}; prepared {expected[:12]}... for {holds}")


def sync_directory(directory: Path) -> None:
    """A rename or a new name survives a power cut only when the directory itself was written."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path, why: str) -> DataError:
    return DataError(
        "a file of the prepared data is damaged or missing",
        where=str(path),
        why=why,
        do=f"remove {path.parent} and run again (the data are prepared anew), or copy it from an intact directory",
    )


def _digest_of(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
