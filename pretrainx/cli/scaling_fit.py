"""The command that fits a scaling law: scaling fit."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pretrainx.cli.arguments import Arguments, Command, Flag
from pretrainx.core.errors import ConfigError
from pretrainx.scaling.fit_options import FitOptions

_OF_TABLES = ("columns", "convention", "counted", "unit")
_HELP = {
    "method": "approach 3, 2 or 1 of Hoffmann et al. 2022, or L*(C) alone (default parametric)",
    "form": "of the parametric fit (default chinchilla)",
    "fixed": "hold values, such as E=1.69,alpha=0.34",
    "equal": "hold alpha = beta, for few sizes",
    "residual": "what the parametric fit sums (default huber, on log loss)",
    "delta": "of huber (default 0.001)",
    "penalty": "of an overestimate, in asymmetric (default 10)",
    "starts": "of the optimiser (default 0: Hoffmann's whole grid is ranked)",
    "seed": "of starts and replicates (default 0)",
    "window": "of an isoFLOP curve: points on each side of its lowest (default 0: all)",
    "minimum": "of an isoFLOP curve (default parabola)",
    "scale": "what the isoFLOP curve is of (default loss)",
    "weights": "of isoFLOP minima: none, or error: 1 / std^2 (default none)",
    "hull": "how approach 1 finds the envelope (default hull)",
    "bins": "of C, of the hull bins (default 50)",
    "near": "the parametric fit keeps rows whose N is within this factor of their budget's lowest (default 0: all)",
    "outliers": "the rule that leaves rows out; they are listed (default none)",
    "threshold": "of that rule, in robust standard deviations (default 4)",
    "replicates": "of the bootstrap (default 1000; 0: none)",
    "resample": "draw runs, or add seed noise (default run)",
    "noise": "standard deviation of log loss between seeds (default 0: from the table's errors)",
}


def _fit(arguments: Arguments) -> int:
    from pretrainx.scaling import fit_file, fit_text, fitting

    options = options_of(arguments.flags)
    table, left_out, output = _table(arguments.flags, curves=options.method == "envelope")
    found = fitting.fit(table, options, left_out)
    print("\n".join(fit_text.lines(found)))
    if output:
        print(f"\nwritten: {fit_file.save(found, output)}")
    return 0


def options_of(flags: dict[str, str]) -> FitOptions:
    """The FitOptions that the flags of a command line say. ConfigError with every problem."""
    from pretrainx.core.config import parse
    from pretrainx.core.literal import literal

    given: dict[str, Any] = {name: literal(flags[name]) for name in _NAMES if name in flags}
    if "equal" in flags:
        given["equal"] = True
    if "fixed" in flags:
        pairs = [item.partition("=")[::2] for item in flags["fixed"].split(",")]
        given["fixed"] = [(name.strip(), literal(value)) for name, value in pairs]
    try:
        return parse(FitOptions, given, "fit")
    except ConfigError as error:
        why, do = error.why.replace("fit.", "--"), "pretrainx scaling fit --help"
        raise ConfigError("these choices of a fit cannot be meant", where="command line", why=why, do=do) from error


def _table(flags: dict[str, str], curves: bool) -> tuple[Any, Any, str]:
    """The Table (`curves`: of a study, all evaluations of its runs), the rows left out on the way to it, and where the fit is
    written ("": nowhere)."""
    from pathlib import Path

    from pretrainx.scaling import fit_file, read_table

    if ("workdir" in flags) == ("table" in flags):
        raise ConfigError(
            "a fit reads one thing: a study or a table",
            where="pretrainx scaling fit",
            why="both are given" if "table" in flags else "neither is given",
            do="--workdir=DIR, or --table=FILE --columns=NAME:COLUMN,...",
        )
    if "table" in flags:
        columns = read_table.column_map(flags.get("columns", ""))
        facts = {name: flags[name] for name in ("convention", "counted", "unit") if name in flags}
        table = read_table.read(flags["table"], columns, flags.get("where", ""), **facts)
        return table, (), flags.get("output", "")
    if stray := [f"--{name}" for name in _OF_TABLES if name in flags]:
        raise ConfigError(
            f"{', '.join(stray)} and --workdir do not go together",
            where="pretrainx scaling fit",
            why="a study's own results have their columns and conventions",
            do=f"leave it out, or name the file: --table={flags['workdir']}/results.jsonl",
        )
    directory, where = flags["workdir"], flags.get("where", "")
    output = flags.get("output") or str(Path(directory) / fit_file.NAME)
    return read_table.read_results(directory, curves, where), read_table.unfinished(directory, curves, where), output


def _option_flag(field: Any) -> Flag:
    choices = field.metadata.get("choices")
    metavar = (
        ""
        if field.name == "equal"
        else "|".join(choices)
        if choices
        else "NAME=V,..."
        if field.name == "fixed"
        else "N"
    )
    return Flag(field.name, _HELP[field.name], metavar)


_NAMES = tuple(field.name for field in fields(FitOptions) if field.name not in ("equal", "fixed"))
OPTION_FLAGS = tuple(map(_option_flag, fields(FitOptions)))

COMMANDS = (
    Command(
        "scaling fit",
        "fit a scaling law to the results of a study, or to any table: values, optima, intervals, rows left out, cautions",
        _fit,
        (
            Flag("workdir", "the directory of a study; the fit is written to DIR/fit.json", "DIR"),
            Flag("table", "a CSV, TSV or JSON-lines file, instead", "FILE"),
            Flag(
                "columns",
                "what its columns are: parameters, tokens, loss, and run, flops, error, budget, unique, convention, counted, "
                "unit; COLUMN may be a product, such as tokens:n_billion*1e9",
                "NAME:COLUMN,...",
            ),
            Flag("where", "only rows for which all hold, such as config=rw/base/*,loss<4", "CONDITION,..."),
            Flag(
                "convention",
                "how its FLOPs were counted, stored with the fit (default: its own column, else 6nd)",
                "NAME",
            ),
            Flag("counted", "what its N counts (default: its own column, else total)", "NAME"),
            Flag("unit", "what its D counts (default: its own column, else token)", "NAME"),
            Flag("output", "the file of the fit (default DIR/fit.json of a study, none of a table)", "FILE.json"),
            *OPTION_FLAGS,
        ),
    ),
)
