"""Filters of rows as a command line writes them: `config=rw/*/val,loss<4`. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pretrainx.core.errors import ConfigError, nearest

_ORDER = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def accepts(where: str, columns: Sequence[str], source: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether all conditions hold for the cells of a row.

    A condition is COLUMN=VALUE, COLUMN!=VALUE, or COLUMN<NUMBER with <, <=, > or >=. A VALUE is text with * and ? as in names
    of files, alternatives with | between; `COLUMN!=` asks for a cell that is not empty. An order holds for no cell that isn't
    a number.

    Raises:
      ConfigError: no condition, an unknown column, an order that is compared with no number.
    """
    conditions = [_condition(text.strip(), columns, source) for text in where.split(",")] if where else []
    return lambda cells: all(condition(cells) for condition in conditions)


def _condition(text: str, columns: Sequence[str], source: str) -> Callable[[Mapping[str, Any]], bool]:
    match = re.fullmatch(r"(.+?)\s*(!=|<=|>=|=|<|>)\s*(.*)", text)
    if match is None:
        raise _refused(text, "it has none of = != < <= > >=")
    column, sign, value = match.groups()
    if column not in columns:
        raise _refused(text, f"{source} has no column {column!r}: {nearest(column, columns)}")
    if sign in ("=", "!="):
        return lambda cells: _alike(cells.get(column), value) == (sign == "=")
    limit = _real(value)
    if limit is None:
        raise _refused(text, f"{value!r} is no number")
    return lambda cells: (number := _real(cells.get(column))) is not None and _ORDER[sign](number, limit)


def _alike(cell: Any, value: str) -> bool:
    text = "" if cell is None else str(cell).strip()
    return any(fnmatchcase(text, pattern) or _same(text, pattern) for pattern in value.split("|"))


def _same(text: str, pattern: str) -> bool:
    """Whether both are one number, however it is written: 1e9 and 1000000000.0."""
    number = _real(text)
    return number is not None and number == _real(pattern)


def _real(cell: Any) -> float | None:
    """The number of a cell; None for what is none, not-a-numbers among it."""
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if number != number else number


def _refused(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is no filter", where="--where", why=why, do="such as --where=config=rw/base/*,loss<4 (all must hold)"
    )
