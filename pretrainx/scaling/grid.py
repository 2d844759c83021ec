"""Overrides as text: keys with lists of values that are multiplied out, and files with a set of overrides in each line."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pretrainx.core.errors import ConfigError
from pretrainx.core.literal import literal

OPENS, CLOSES, QUOTES = "([{", ")]}", "'\""


def pieces(text: str, marks: str) -> list[str]:
    """The text cut at each of the marks that stands outside of brackets and quotes; blank pieces left out."""
    found, start, depth, quote = [], 0, 0, ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in QUOTES:
            quote = letter
        elif letter in OPENS or letter in CLOSES:
            depth += 1 if letter in OPENS else -1
        elif letter in marks and depth == 0:
            found.append(text[start:place])
            start = place + 1
    return [piece.strip() for piece in (*found, text[start:]) if piece.strip()]


def overrides(text: str, where: str) -> dict[str, Any]:
    """{dotted key: value} of "schedule.peak=1e-3 seed=1". ConfigError for what is no override, or one that comes twice."""
    found: dict[str, Any] = {}
    for piece in pieces(text, " \t;"):
        key, value = _pair(piece, where, "schedule.peak=1e-3 seed=1")
        if key in found:
            raise _twice(key, where)
        found[key] = literal(value)
    return found


def product(text: str, where: str = "config.study.grid") -> list[dict[str, Any]]:
    """Every combination of "schedule.peak=1e-3,3e-3; model.width=64,128"; the last key moves fastest."""
    axes: dict[str, list[Any]] = {}
    for piece in pieces(text, ";"):
        key, values = _pair(piece, where, "schedule.peak=1e-3,3e-3; model.width=64,128")
        if key in axes:
            raise _twice(key, where)
        axes[key] = [literal(value) for value in pieces(values, ",")]
        if len({repr(value) for value in axes[key]}) < len(axes[key]):
            raise _twice(f"a value of {key}", where)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def lines(path: str | Path) -> list[dict[str, Any]]:
    """The overrides of each line of a file; empty lines and those that begin with # are passed over."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the list of overrides cannot be read",
            where=f"config.study.list: {path}",
            why=str(error),
            do="name a text file",
        ) from error
    numbered = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    found = [overrides(line, f"{path}:{number}") for number, line in numbered if line and not line.startswith("#")]
    if not found:
        raise ConfigError(
            "the list of overrides is empty",
            where=str(path),
            why="it has no line",
            do="one run a line: schedule.peak=1e-3",
        )
    for number, each in enumerate(found):
        if each in found[:number]:
            raise _twice(words(each), str(path))
    return found


def words(overrides: dict[str, Any]) -> str:
    """As a line of a list has them."""
    return " ".join(f"{key}={value!r}" for key, value in overrides.items())


def _pair(piece: str, where: str, example: str) -> tuple[str, str]:
    key, mark, value = piece.partition("=")
    key, value = key.strip().removeprefix("--").removeprefix("config."), value.strip()
    if not mark or not key or not value or any(not part for part in key.split(".")):
        raise ConfigError(
            f"{piece!r} is no override", where=where, why="KEY=VALUE is needed", do=f'such as "{example}"'
        )
    return key, value


def _twice(what: str, where: str) -> ConfigError:
    return ConfigError(f"{what} is given twice", where=where, why="both would be the same run", do="keep one")
