"""Documents, always in the same order: the Python standard library, text files, lines of JSON, ArrayRecord files."""

from __future__ import annotations

import glob
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.data import array_records

KINDS = ("stdlib", "text", "jsonl", "array_record")
# Installed packages are not the library; tests hold megabytes of generated tables and files in odd encodings.
STDLIB_LEAVES_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


class Document(NamedTuple):
    """One text and its name. The name contains no machine's directories: it decides the document's split."""

    name: str
    text: str


def documents(kind: str, paths: tuple[str, ...] = (), field: str = "text") -> Iterator[Document]:
    """The documents of a source, in the order of `paths` and sorted by name within each path.

    Args:
      kind: "stdlib" (the installed Python's own .py files), "text" (one document a file), "jsonl" (one a line) or
        "array_record" (one a record: JSON objects in a file whose first record is one, else UTF-8 text).
      paths: files, directories (read recursively, hidden names left out) or glob patterns; none for "stdlib".
      field: the key of a JSON object that holds its text.

    Raises ConfigError for an unknown kind or for paths that do not fit it, DataError (naming the file, and the line or
    record) for a missing or damaged file, a source without documents, invalid UTF-8, and a line or record that is no
    JSON object with that field.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"unknown source {kind!r}",
            where="config.data.source",
            why=nearest(kind, KINDS),
            do="choose one of " + ", ".join(KINDS),
        )
    if kind == "stdlib" and paths:
        raise ConfigError(
            "the source 'stdlib' takes no paths",
            where="config.data.paths",
            why=f"got {', '.join(paths)}",
            do="set config.data.source to another kind, or leave the paths out",
        )
    if kind != "stdlib" and not paths:
        raise ConfigError(
            f"the source {kind!r} needs paths",
            where="config.data.paths",
            why="no paths are given",
            do="name files, directories or glob patterns, such as ('corpus/**/*.txt',)",
        )
    if kind == "stdlib":
        return _stdlib(Path(sysconfig.get_paths()["stdlib"]))
    if kind == "text":
        return (Document(name, _decode(path.read_bytes(), str(path))) for name, path in files(paths, ("",)))
    if kind == "jsonl":
        return (document for name, path in files(paths, (".jsonl",)) for document in _lines(name, path, field))
    found = files(paths, array_records.SUFFIXES)
    return (document for name, path in found for document in _records(name, path, field))


def _stdlib(root: Path) -> Iterator[Document]:
    found = _below(root, (".py",), STDLIB_LEAVES_OUT)
    if not found:
        raise DataError(
            "the Python standard library has no readable source files",
            where=str(root),
            why="this Python keeps its library in an archive or elsewhere",
            do="use an ordinary CPython installation, or config.data.source = 'text' with config.data.paths",
        )
    for name in found:
        yield Document(name, _decode((root / name).read_bytes(), str(root / name)))


def _below(root: Path, suffixes: tuple[str, ...], leave_out: frozenset[str] = frozenset()) -> list[str]:
    """Relative posix paths of the files below `root`, sorted; hidden names left out."""
    found = []
    for directory, directories, files in os.walk(root):
        directories[:] = [name for name in directories if name not in leave_out and not name.startswith(".")]
        relative = Path(directory).relative_to(root)
        found += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return sorted(found)


def files(paths: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file that `paths` mean; no file comes twice.

    `suffixes`, in lower case, filter directories only, and match names in any case.
    """
    seen = set()
    for given in paths:
        for name, path in _meant_by(given, suffixes):
            resolved = path.resolve()
            if resolved not in seen:
                seen.add(resolved)
                yield name, path


def _meant_by(given: str, suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    path = Path(given).expanduser()
    # A file whose name contains a bracket is a file first and a pattern second.
    if path.is_file():
        return [(path.name, path)]
    if path.is_dir():
        found = [(name, path / name) for name in _below(path, suffixes)]
        missing = f"the directory holds no files{' ending in ' + ' or '.join(suffixes) if all(suffixes) else ''}"
    elif glob.has_magic(given):
        fixed = []
        for part in path.parts:
            if glob.has_magic(part):
                break
            fixed.append(part)
        root = Path(*fixed)
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        found = [(match.relative_to(root).as_posix(), match) for match in matches]
        missing = "the pattern matches no file"
    else:
        raise DataError(
            "a source file does not exist",
            where=f"config.data.paths: {given}",
            why=f"nothing is at {path.absolute()}",
            do="correct the path; relative paths start at the working directory",
        )
    if not found:
        raise DataError(
            missing, where=f"config.data.paths: {given}", why=f"looked in {path.absolute()}", do="correct the path"
        )
    return found


def _lines(name: str, path: Path, field: str) -> Iterator[Document]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{path}:{number}"
            text = _decode(line, where)
            if text.strip():
                yield Document(f"{name}:{number}", _text_of(text, field, where, "line"))


def _records(name: str, path: Path, field: str) -> Iterator[Document]:
    objects = False
    for number, record in enumerate(array_records.records(path)):
        where = f"{path}: record {number}"
        text = _decode(record, where)
        if number == 0:  # one rule for a whole file: a text that happens to parse is still a text
            objects = _is_object(text)
        yield Document(f"{name}:{number}", _text_of(text, field, where, "record") if objects else text)


def _is_object(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _text_of(line: str, field: str, where: str, unit: str) -> str:
    """The text of one JSON object; `unit` is what errors call it, line or record."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"a {unit} is not JSON", where=where, why=str(error), do=f"write one JSON object a {unit}, or remove it"
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        if not isinstance(record, dict):
            why = f"the {unit} holds a {type(record).__name__}, not an object"
        elif field in record:
            why = f"its value is a {type(record[field]).__name__}, not a string"
        else:
            why = f"no such key; {nearest(field, record)}"
        raise DataError(
            f"a {unit} has no text under {field!r}", where=where, why=why, do="set config.data.field to the text's key"
        )
    try:
        record[field].encode()
    except UnicodeEncodeError as error:
        # JSON can write half of a surrogate pair, which no UTF-8 text contains.
        raise DataError(
            f"a {unit}'s text is not valid Unicode", where=where, why=str(error), do=f"repair or remove the {unit}"
        ) from error
    return record[field]


def _decode(data: bytes, where: str) -> str:
    """Bytes as they are: no newline is translated, so that encoding and decoding are the identity on the file."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            "a source file is not valid UTF-8",
            where=where,
            why=f"byte {error.start}: {error.reason}",
            do="convert the file to UTF-8 (iconv -f ... -t UTF-8), or leave it out of config.data.paths",
        ) from error
