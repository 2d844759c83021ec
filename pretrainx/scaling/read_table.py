"""From files to a Table: a study's own results, and anybody's CSV or JSON lines by a map of columns.

Every number becomes float64. A cell that is no such number is an error that names file, line, column and value: nothing is
guessed, and no row is left out but by a filter that the caller wrote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.scaling import manifest
from pretrainx.scaling.collect import evaluated, metric_of
from pretrainx.scaling.fits import Dropped
from pretrainx.scaling.row_filters import accepts
from pretrainx.scaling.table import Table, table
from pretrainx.scaling.table_files import Row, rows_of

NEEDED = ("parameters", "tokens", "loss")
OPTIONAL = ("run", "flops", "error", "budget", "unique", "convention", "counted", "unit")
TEXTS = ("run", "convention", "counted", "unit")
MAY_BE_EMPTY = ("error", "budget", "unique")  # one row may know its standard error, and the next not
KINDS = (".jsonl", ".csv")  # of a study's tables, the better one first
# Columns of a study's results.jsonl that are called otherwise in a Table.
OWN = {"error": "loss_error", "unique": "unique_tokens"}
# Columns that say something of another one.
OF = {"convention": "flops", "counted": "parameters", "error": "loss", "unique": "tokens"}


def read(path: str | Path, columns: Mapping[str, str] | None = None, where: str = "", **facts: str) -> Table:
    """The table of a CSV, TSV or JSON-lines file.

    Args:
      columns: {column of a Table, or "run": column of the file}; what is left out is read from a file's column of the same
        name, if there is one, or of a study's name for it. The right side may be a product of columns and numbers:
        "flops_per_token*tokens", "n_billion*1e9". Without `flops` C = 6 N D, without `run` each row is a run of its own.
      where: filters that all must hold, as row_filters.accepts reads them.
      facts: convention, counted, unit; they win over what a column says.

    Raises:
      ConfigError: a map or filter that cannot be meant. DataError: an unreadable file or cell, no row, pooled conventions.
    """
    path = Path(path)
    rows = rows_of(path)
    return _table(_filtered(rows, where, path), _sources(rows[0], columns or {}, path), path, where, facts)


def read_results(directory: str | Path, curves: bool = False, where: str = "") -> Table:
    """The runs of a study that are done, from DIR/results.jsonl, else .csv; with `curves` all of their evaluations, a row each,
    from DIR/curves.jsonl. where: as `read` takes it."""
    path = _results(directory, "curves" if curves else "results")
    done = [row for row in rows_of(path) if row.cells.get("status") == "done"]
    if not done:
        raise DataError(
            "no run of this study is done",
            where=str(path),
            why="a fit reads the rows whose status is done",
            do=_trained(directory),
        )
    planned = manifest.read(directory) if (Path(directory) / manifest.NAME).is_file() else None
    reached = [row for row in done if _reached(row)]
    if not reached:
        measured = evaluated(Path(directory) / "runs" / str(done[0].cells.get("run")))
        raise DataError(
            f"no run that is done has {metric_of(planned.study if planned else {})}",
            where=str(path),
            why="a fit reads it at a run's last step, and takes a finite number above 0; "
            f"evaluated were: {', '.join(measured) or 'nothing'}",
            do="the same `scaling plan` with --config.study.metric=NAME, then `scaling run --collect`",
        )
    said = planned.facts if planned else {}
    chosen = _filtered(reached, where, path)
    return _table(chosen, _sources(done[0], {}, path), path, where, {"counted": said.get("counted", "")})


def where_of(source: str) -> str:
    """The filter by which rows of a study were read whose Table has this source; "" for other files."""
    path, _, where = source.partition(" where ")
    return where if Path(path).name in [name + kind for name in ("results", "curves") for kind in KINDS] else ""


def unfinished(directory: str | Path, curves: bool = False, where: str = "") -> tuple[Dropped, ...]:
    """The runs of a study that read_results leaves out, such as those that diverged; `row` is the row of the file."""
    found = []
    for number, row in enumerate(rows_of(_results(directory))):
        state, why = row.cells.get("status"), ""
        if state != "done":
            why = f"the run is {state!r}, not done"
        elif not _reached(row):
            why = f"done, but no held-out loss at its last step that is above 0: {row.cells.get('loss')!r}"
        if why:
            found.append(Dropped(number, str(row.cells.get("run")), "status", why))
    if not where:
        return tuple(found)
    path = _results(directory, "curves" if curves else "results")
    rows = rows_of(path)
    kept = accepts(where, tuple(rows[0].cells), str(path))
    for number, row in enumerate(rows):
        if row.cells.get("status") == "done" and _reached(row) and not kept(row.cells):
            found.append(Dropped(number, str(row.cells.get("run")), "where", f"--where={where}"))
    return tuple(found)


def _reached(row: Row) -> bool:
    """Whether a row of a study has a loss that a law can be fitted to."""
    loss = _number(row.cells.get("loss"))
    return loss is not None and 0 < loss < math.inf


def _trained(directory: str | Path) -> str:
    of_study = f"pretrainx scaling run --workdir={directory}"
    return f"{of_study} trains the runs; {of_study} --collect gathers those that were trained elsewhere"


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


def _filtered(rows: list[Row], where: str, path: Path) -> list[Row]:
    kept = accepts(where, tuple(rows[0].cells), str(path))
    chosen = [row for row in rows if kept(row.cells)]
    if not chosen:
        raise DataError(
            "the filter leaves no row",
            where=f"--where={where}",
            why=f"{path} has {len(rows)} rows",
            do="relax it; values are compared as they are written",
        )
    return chosen


def _results(directory: str | Path, name: str = "results") -> Path:
    for kind in KINDS:
        if (path := Path(directory) / (name + kind)).is_file():
            return path
    raise DataError(
        f"this study has no {name}",
        where=str(directory),
        why=f"there is neither {' nor '.join(name + kind for kind in KINDS)}",
        do=_trained(directory),
    )


def _sources(first: Row, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """{column of a Table: product of columns and numbers} of all that the file can give."""
    known = NEEDED + OPTIONAL
    found = {name: source for name in known if (source := columns.get(name) or _beside(name, columns, first.cells))}
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


def _beside(name: str, columns: Mapping[str, str], cells: Mapping[str, Any]) -> str:
    """What a file has for a column of a Table that no map names; "" where there is nothing.

    What says something of another column is multiplied as that is, and is of no use where a different one took its place.
    """
    own = next((each for each in (name, OWN.get(name)) if each in cells), "")
    of = OF.get(name)
    if not own or of not in columns or of not in cells:
        return own
    parts = _factors(columns[of], cells)
    if of not in parts:
        return ""
    return own if name in TEXTS else "*".join(own if part == of else part for part in parts)


def _factors(source: str, cells: Mapping[str, Any]) -> list[str]:
    """The parts of a product; a column whose own name has a star is one part."""
    return [source] if source in cells else [part.strip() for part in source.split("*")]


def _table(rows: list[Row], sources: Mapping[str, str], path: Path, where: str, facts: Mapping[str, str]) -> Table:
    said = {name: facts[name] for name in ("convention", "counted", "unit") if facts.get(name)}
    for name in ("convention", "counted", "unit"):
        if name in sources:
            said.setdefault(name, _only(rows, sources[name], name, path))
    if "flops" in sources:
        said.setdefault("convention", f"column {sources['flops']}")
    if "parameters" in rows[0].cells and "parameters" not in _factors(sources["parameters"], rows[0].cells):
        said.setdefault("counted", f"column {sources['parameters']}")
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
    cell = row.cells.get(column)
    if cell is None or not str(cell).strip():
        raise _bad(path, row, column, "", "a name is needed")
    return str(cell).strip()


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
