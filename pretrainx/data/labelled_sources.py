"""Labelled examples from files (JSON lines, tables of comma-separated values), one a line, or of the Python library."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.data import sources
from pretrainx.data.docstrings import docstrings

SUFFIXES = {"jsonl": (".jsonl",), "csv": (".csv",)}
KINDS = (*SUFFIXES, "stdlib")


class Example(NamedTuple):
    """One example as its file has it.

    Attributes:
      where: file and line.
      text: a text; of tags the words.
      second: "" where there are no pairs.
      label: a class as str, a number as float, tags as a tuple of str, a span as (first character, one behind the last), a
        text as str.
      group: what the example shares with those that must stay in one split.
    """

    where: str
    text: str | tuple[str, ...]
    second: str
    label: Any
    group: str


@dataclass(frozen=True)
class Fields:
    """The names of an example's parts in a file, and what its label is; see `LabelledConfig`."""

    text: str
    second: str
    label: str
    group: str
    target: str


def examples(kind: str, paths: tuple[str, ...], fields: Fields) -> Iterator[Example]:
    """The examples of files, in the order of `paths` and sorted by name within each.

    Raises ConfigError for tables of spans, DataError (naming file and line) for a missing or damaged file and for a line that
    lacks a field or has something else in it.
    """
    if kind == "csv" and fields.target == "span":
        raise ConfigError(
            "a table has no spans",
            where="config.data.source",
            why="an answer has a beginning and a text, a cell is one of them",
            do='write JSON lines with {"start": 17, "text": "..."} as label, and set it to jsonl',
        )
    if kind == "stdlib":
        if paths:
            raise ConfigError(
                "the source 'stdlib' takes no paths",
                where="config.data.paths",
                why=f"got {', '.join(paths)}",
                do="set config.data.source to jsonl or csv, or leave the paths out",
            )
        yield from (_example(where, record, fields, split=False) for where, record in docstrings())
        return
    for _, path in sources.files(paths, SUFFIXES[kind]):
        for where, record in (_lines if kind == "jsonl" else _table)(path):
            yield _example(where, record, fields, split=kind == "csv")


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = json.loads(line)
            except ValueError as error:  # of bytes that are no UTF-8, too
                raise _bad(where, f"it is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise _bad(where, f"it holds a {type(record).__name__}, not an object")
            yield where, record


def _table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for record in reader:
                where = f"{path}:{reader.line_num}"
                if None in record or None in record.values():
                    raise _bad(where, f"it has another number of cells than the {len(reader.fieldnames)} names on top")
                yield where, record
    except (csv.Error, UnicodeDecodeError) as error:
        raise _bad(str(path), str(error)) from error


def _example(where: str, record: dict[str, Any], fields: Fields, split: bool) -> Example:
    """split: whether words and tags are written with blanks between them."""

    def read(name: str, key: str) -> Any:
        if name not in record:
            raise _bad(where, f"it has no {name!r}; {nearest(name, record)}", f"set config.data.{key} to its name")
        return record[name]

    text = read(fields.text, "text")
    if fields.target == "tags":
        text = _words(where, fields.text, text, split)
    else:
        _check_text(where, fields.text, text)
    second = read(fields.second, "second") if fields.second else ""
    if fields.second:
        _check_text(where, fields.second, second)
    value = read(fields.label, "label")
    label = _label(where, fields, value, text, second, split)
    group = str(read(fields.group, "group")) if fields.group else f"{text}\n{second}"
    return Example(where, text, second, label, group)


def _label(where: str, fields: Fields, value: Any, text: Any, second: str, split: bool) -> Any:
    name = fields.label
    match fields.target:
        case "class":
            if type(value) not in (str, int, bool) or value == "":
                raise _bad(where, f"its {name!r} is {value!r}: neither a name nor a whole number")
            return str(value)
        case "number":
            try:
                number = float(value if type(value) in (int, float, str) else "none")
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise _bad(where, f"its {name!r} is {value!r}: no finite number")
            return number
        case "tags":
            tags = _words(where, name, value, split)
            if len(tags) != len(text):
                raise _bad(where, f"{len(text)} words in {fields.text!r}, but {len(tags)} tags in {name!r}")
            return tags
        case "span":
            return _span(where, name, value, second)
        case _:
            _check_text(where, name, value)
            return value


def _span(where: str, name: str, value: Any, context: str) -> tuple[int, int]:
    start, text = (value.get("start"), value.get("text")) if isinstance(value, dict) else (None, None)
    if type(start) is not int or not isinstance(text, str) or not text:
        raise _bad(where, f'its {name!r} is {value!r}; an answer is {{"start": 17, "text": "..."}}, characters from 0')
    if start < 0 or context[start : start + len(text)] != text:
        there = context[max(start, 0) : max(start, 0) + len(text)]
        raise _bad(where, f"the answer {text!r} does not stand at character {start} of the second text, {there!r} does")
    return start, start + len(text)


def _words(where: str, name: str, value: Any, split: bool) -> tuple[str, ...]:
    words = value.split() if split and isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        raise _bad(where, f"its {name!r} is no list of words")
    for word in words:
        _check_text(where, name, word)
    return tuple(words)


def _check_text(where: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _bad(where, f"its {name!r} is a {type(value).__name__}, not a text")
    if not value.strip():
        raise _bad(where, f"its {name!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
        raise _bad(where, f"its {name!r} is not valid Unicode: {error}") from error


def _bad(where: str, why: str, do: str = "correct the line, or remove it") -> DataError:
    return DataError("a labelled example cannot be used", where=where, why=why, do=do)
