"""Rows of a CSV, TSV or JSON-lines file as they are written, each with its place for messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainx.core.errors import DataError

_SUFFIXES = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Row:
    """A line of a file: its number in it, from 1 (a CSV's header is line 1), and its cells by column."""

    line: int
    cells: Mapping[str, Any]


def rows_of(path: Path) -> list[Row]:
    """At least one. DataError: an unreadable file, another kind, a row that is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the table cannot be read", where=str(path), why=str(error), do="name another file") from error
    if path.suffix in _SUFFIXES:
        rows = _delimited(text, _SUFFIXES[path.suffix], path)
    elif path.suffix in _JSON_LINES:
        rows = _json_lines(text, path)
    else:
        known = ", ".join((*_SUFFIXES, *_JSON_LINES))
        raise DataError("the kind of table is not known", where=str(path), why=f"known: {known}", do="rename it")
    if not rows:
        raise DataError("the table is empty", where=str(path), why="it has no row", do="name another file")
    return rows


def _delimited(text: str, delimiter: str, path: Path) -> list[Row]:
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError("two columns have one name", where=f"{path}, line 1", why=repr(twice), do="rename one")
    rows = []
    for cells in reader:
        if not cells:
            continue  # a blank line
        if len(cells) != len(header):
            raise DataError(
                "a row is longer or shorter than the header",
                where=f"{path}, line {reader.line_num}",
                why=f"{len(cells)} cells, {len(header)} columns",
                do="mend the file; cells that hold the delimiter are quoted",
            )
        rows.append(Row(reader.line_num, dict(zip(header, cells, strict=True))))
    return rows


def _json_lines(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except ValueError as error:
            cells = str(error)
        if not isinstance(cells, dict):
            why = cells if isinstance(cells, str) else f"{type(cells).__name__}, not an object"
            raise DataError("a line is no JSON object", where=f"{path}, line {number}", why=why, do="mend the file")
        rows.append(Row(number, cells))
    columns = dict.fromkeys(name for row in rows for name in row.cells)
    return [Row(row.line, {name: row.cells.get(name) for name in columns}) for row in rows]
