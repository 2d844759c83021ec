"""From files to a Table: a study's own results, and anybody's CSV or JSON lines by a map of columns.

Every number becomes float64. A cell that is no such number is an error that names file, line, column and value: nothing is
guessed, and no row is left out but by a filter that the caller wrote.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.scaling import manifest
from pretrainx.scaling.fits import Dropped
from pretrainx.scaling.row_filters import accepts
from pretrainx.scaling.table import Table, table

NEEDED = ("parameters", "tokens", "loss")
OPTIONAL = ("run", "flops", "error", "budget", "unique", "convention", "counted", "unit")
TEXTS = ("run", "convention", "counted", "unit")
MAY_BE_EMPTY = ("error", "budget", "unique")  # one row may know its standard error, and the next not
_SUFFIXES = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
KINDS = (".jsonl", ".csv")  # of a study's tables, the better one first
# Columns of a study's results.jsonl that are called otherwise in a Table.
OWN = {"error": "loss_error", "unique": "unique_tokens"}


@dataclass(frozen=True)
class Row:
    """A line of a file: its number in it, from 1 (a CSV's header is line 1), and its cells by column."""

    line: int
    cells: Mapping[str, Any]


def read(path: str | Path, columns: Mapping[str, str] | None = None, where: str = "", **facts: str) -> Table:
    """The table of a CSV, TSV or JSON-lines file.

    Args:
      columns: {column of a Table, or "run": column of the file}; what is left out is read from a file's column of the same
        name, if there is one. The right side may be a product of columns and numbers: "flops_per_token*tokens",
        "n_billion*1e9". Without `flops` C = 6 N D, without `run` each row is a run of its own.
      where: filters that all must hold, as row_filters.accepts reads them.
      facts: convention, counted, unit, where no column says them.

    Raises:
      ConfigError: a map or filter that cannot be meant. DataError: an unreadable file or cell, no row, pooled conventions.
    """
    path = Path(path)
    rows = _rows(path)
    kept = accepts(where, tuple(rows[0].cells), str(path))
    chosen = [row for row in rows if kept(row.cells)]
    if not chosen:
        raise DataError(
            "the filter leaves no row",
            where=f"--where={where}",
            why=f"{path} has {len(rows)} rows",
            do="relax it; values are compared as they are written",
        )
    return _table(chosen, _sources(rows[0], columns or {}, path), path, where, facts)


def read_results(directory: str | Path, curves: bool = False) -> Table:
    """The runs of a study that are done, from DIR/results.jsonl, else .csv; with `curves` all of their evaluations, a row each,
    from DIR/curves.jsonl."""
    path = _results(directory, "curves" if curves else "results")
    done = [row for row in _rows(path) if row.cells.get("status") == "done"]
    if not done:
        raise DataError(
            "no run of this study is done",
            where=str(path),
            why="a fit reads the rows whose status is done",
            do=f"pretrainx scaling run --workdir={directory}",
        )
    own = {name: column for name, column in OWN.items() if column in done[0].cells}
    said = manifest.read(directory).facts if (Path(directory) / manifest.NAME).is_file() else {}
    return _table(done, _sources(done[0], own, path), path, "", {"counted": said.get("counted", "")})


def unfinished(directory: str | Path) -> tuple[Dropped, ...]:
    """The runs of a study that read_results leaves out, such as those that diverged; `row` is the row of the file."""
    rows = enumerate(_rows(_results(directory)))
    return tuple(
        Dropped(number, str(row.cells.get("run")), "status", f"the run is {row.cells.get('status')!r}, not done")
        for number, row in rows
        if row.cells.get("status") != "done"
    )


def column_map(text: str) -> dict[str, str]:
    """`parameters:params,tokens:n*1e9` as a mapping. ConfigError where it is not one."""
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, colon, source = (part.strip() for part in item.partition(":"))
        known = NEEDED + OPTIONAL
        if not colon or not source or name not in known or name in found:
            why = "it has the form NAME:COLUMN" if not colon or not source else nearest(name, known)
            raise ConfigError(
                f"{item!r} maps no column",
                where="--columns",
                why="it is given twice" if name in found else why,
                do="such as --columns=parameters:params,tokens:n_tokens*1e9,loss:val_loss",
            )
        found[name] = source
    return found


def _results(directory: str | Path, name: str = "results") -> Path:
    for kind in KINDS:
        if (path := Path(directory) / (name + kind)).is_file():
            return path
    raise DataError(
        f"this study has no {name}",
        where=str(directory),
        why=f"there is neither {' nor '.join(name + kind for kind in KINDS)}",
        do=f"pretrainx scaling run --workdir={directory}",
    )


def _rows(path: Path) -> list[Row]:
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


def _sources(first: Row, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """{column of a Table: product of columns and numbers} of all that the file can give."""
    known = NEEDED + OPTIONAL
    found = {name: columns.get(name, name) for name in known if name in columns or name in first.cells}
    missing = [name for name in NEEDED if name not in found]
    wrong = [part for source in columns.values() for part in _factors(source, first.cells) if part not in first.cells]
    wrong = [part for part in wrong if _number(part) is None]
    if missing or wrong:
        what = f"no column {wrong[0]!r}" if wrong else f"nothing says what {', '.join(missing)} are"
        raise ConfigError(
            what,
            where=str(path),
            why="columns: " + ", ".join(first.cells),
            do=f"--columns={','.join(f'{name}:COLUMN' for name in missing or NEEDED)}",
        )
    return found


def _factors(source: str, cells: Mapping[str, Any]) -> list[str]:
    """The parts of a product; a column whose own name has a star is one part."""
    return [source] if source in cells else [part.strip() for part in source.split("*")]


def _table(rows: list[Row], sources: Mapping[str, str], path: Path, where: str, facts: Mapping[str, str]) -> Table:
    said = {name: facts[name] for name in ("convention", "counted", "unit") if facts.get(name)}
    for name in ("convention", "counted", "unit"):
        if name in sources:
            said[name] = _only(rows, sources[name], name, path)
    if "flops" in sources:
        said.setdefault("convention", f"column {sources['flops']}")
    numbers = {name: _column(rows, name, sources[name], path) for name in sources if name not in TEXTS}
    if "unique" in numbers:  # what is not known to be repeated is not
        numbers["unique"] = np.where(np.isnan(numbers["unique"]), numbers["tokens"], numbers["unique"])
    named = [_text(row, sources["run"], path) for row in rows] if "run" in sources else [str(row.line) for row in rows]
    found = table(**numbers, runs=named, **said)
    return replace(found, source=f"{path} where {where}" if where else str(path))


def _only(rows: list[Row], column: str, name: str, path: Path) -> str:
    """The one value of a column that all rows must share: counts of several conventions make no law together."""
    found = list(dict.fromkeys(_text(row, column, path) for row in rows))
    if len(found) > 1:
        raise DataError(
            f"rows of several kinds of {name} are pooled",
            where=f"{path}, column {column}",
            why=f"{len(found)} values: " + ", ".join(found[:5]) + (", ..." if len(found) > 5 else ""),
            do=f"choose one: --where={column}={found[0]}",
        )
    return found[0]


def _text(row: Row, column: str, path: Path) -> str:
    if (text := str(row.cells.get(column, "")).strip()) == "":
        raise _bad(path, row, column, "", "a name is needed")
    return text


def _column(rows: list[Row], name: str, source: str, path: Path) -> np.ndarray:
    parts = _factors(source, rows[0].cells)
    columns = [part for part in parts if part in rows[0].cells]
    scale = math.prod(_number(part) for part in parts if part not in columns)
    return np.array([scale * math.prod(_cell(row, column, name, path) for column in columns) for row in rows])


def _cell(row: Row, column: str, name: str, path: Path) -> float:
    """A number above zero (a standard error: from zero on), or nan where the cell is empty and may be."""
    cell = row.cells.get(column)
    empty = cell is None or isinstance(cell, str) and cell.strip().lower() in ("", "nan")
    if empty and name in MAY_BE_EMPTY:
        return math.nan
    number = _number(cell)
    least: Callable[[float], bool] = (lambda value: value >= 0) if name == "error" else (lambda value: value > 0)
    if empty:
        raise _bad(path, row, column, cell, f"{name} is needed in each row")
    if number is None:
        raise _bad(path, row, column, cell, "it is no number")
    if not math.isfinite(number):
        raise _bad(path, row, column, cell, "it is not finite")
    if not least(number):
        raise _bad(path, row, column, cell, f"{name} must be {'0 or more' if name == 'error' else 'above 0'}")
    return number


def _number(cell: Any) -> float | None:
    """A cell as float64: "1.5e9", "15000000000", 10**30, 2.5; None for what is no number, booleans among it."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)) or isinstance(cell, str) and "_" in cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def _bad(path: Path, row: Row, column: str, cell: Any, why: str) -> DataError:
    return DataError(
        "a cell of the table cannot be used",
        where=f"{path}, line {row.line}, column {column}",
        why=f"{cell!r}: {why}",
        do=f"mend the file, or leave such rows out by a filter, such as --where={column}!=  (not empty)"
        if cell in ("", None, "nan")
        else f"mend the file, or leave such rows out by a filter, such as --where={column}>0",
    )
