"""Tables that no law can be fitted to: each is an error with the rows, the reason and a way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, nearest
from pretrainx.scaling.fit_options import READS, FitOptions
from pretrainx.scaling.table import Table

SHOWN = 5  # rows that a message lists
POSITIVE = ("parameters", "tokens", "flops", "loss", "unique")


def place(table: Table) -> str:
    """What an error names as the place."""
    return table.source or "the table"


def check_values(table: Table) -> None:
    """DataError where a table is empty, or a count or loss is not a positive finite number: their logarithms are fitted."""
    if not len(table):
        raise DataError(
            "there is nothing to fit",
            where=place(table),
            why="the table has no rows",
            do="run the study first, or look whether all its runs failed: pretrainx scaling run --workdir=DIR",
        )
    wrong = [
        f"row {row} ({table.runs[row]}): {name} is {getattr(table, name)[row]:g}"
        for name in POSITIVE
        for row in np.flatnonzero(~(np.isfinite(getattr(table, name)) & (getattr(table, name) > 0)))
    ]
    if wrong:
        raise DataError(
            "some rows have values that cannot be fitted",
            where=place(table),
            why="counts and losses are fitted by their logarithms: each must be finite and above zero\n" + shown(wrong),
            do="mark such runs as diverged or take these rows out of the table; they are not left out silently",
        )


def check_sizes(table: Table, method: str) -> None:
    """DataError where all rows are of one N: nothing says how loss depends on size."""
    if len(np.unique(table.parameters)) < 2:
        raise DataError(
            f"{method} needs models of several sizes",
            where=place(table),
            why=f"all {len(table)} rows have N = {table.parameters[0]:.6g}",
            do="add runs of other sizes; of one size only L(C) can be fitted: --method=curve",
        )


def check_tokens(table: Table, method: str) -> None:
    """DataError where all rows are of one D: nothing says how loss depends on data."""
    if len(np.unique(table.tokens)) < 2:
        raise DataError(
            f"{method} needs runs of several lengths",
            where=place(table),
            why=f"all {len(table)} rows have D = {table.tokens[0]:.6g}",
            do="add runs of other lengths",
        )


def check_count(
    table: Table,
    found: int,
    least: int,
    what: str,
    reasons: Iterable[str] = (),
    do: str = "for L(C) alone --method=curve",
) -> None:
    """DataError where fewer than `least` of `what` (such as "budgets with a minimum") were found; `reasons` say of each why."""
    if found < least:
        raise DataError(
            f"{least} {what} are needed, {found} found",
            where=place(table),
            why=shown(list(reasons), 20) or f"fewer than {least} leave a value of the law undetermined",
            do="add runs: more budgets, or more sizes around the optimum of each; " + do,
        )


def check_options(options: FitOptions) -> None:
    """ConfigError for choices that the method would pass over in silence."""
    asked = [one for one in fields(options) if getattr(options, one.name) != one.default]
    if foreign := [one.name for one in asked if one.name not in READS[options.method]]:
        of = {name: [method for method, read in READS.items() if name in read] for name in foreign}
        raise ConfigError(
            f"the method {options.method!r} has no such choice",
            where=", ".join(f"--{name}" for name in foreign),
            why="; ".join(f"--{name} is of {', '.join(methods)}" for name, methods in of.items()),
            do=f"leave it out, or fit by such a method: --method={of[foreign[0]][0]}",
        )


def check_fixed(fixed: Sequence[tuple[str, float]], names: Sequence[str], form: str) -> dict[str, float]:
    """{name: value} of what is held; ConfigError for a name that the form has not."""
    for name, _ in fixed:
        if name not in names:
            raise ConfigError(
                f"the form {form!r} has no value {name!r} to hold",
                where=f"fixed: {name}",
                why=nearest(name, names),
                do="hold one of: " + ", ".join(names),
            )
    return {name: float(value) for name, value in fixed}


def shown(lines: list[str], most: int = SHOWN) -> str:
    """The first of many lines, and how many there are beyond."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(lines[:most] + more)
