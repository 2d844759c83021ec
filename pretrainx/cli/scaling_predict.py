"""`pretrainx scaling predict` and `scaling report`: what a fit says of other budgets, and a study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrainx.cli.arguments import Arguments, Command, Flag
from pretrainx.core.errors import ConfigError

QUESTIONS = ("loss", "parameters", "tokens", "inference", "unique")


def _predict(arguments: Arguments) -> int:
    flags = arguments.flags
    numbers = {name: _number(name, flags[name]) for name in QUESTIONS if name in flags}
    budgets = tuple(_number("budget", text) for text in flags["budget"].split(",")) if "budget" in flags else ()

    from pretrainx.scaling import answers, predictions

    if "output" in flags and "tokens" in numbers:
        raise ConfigError(
            "--tokens and --output do not go together",
            where="command line",
            why="the next run reads what its size leaves of the budget",
            do="name two of --budget, --loss and --parameters at most",
        )
    fit = _fit(flags)
    table = _results(flags, fit) if "workdir" in flags else None
    if not budgets and "loss" not in numbers and not {"parameters", "tokens"} <= set(numbers):
        budgets = (fit.range[2][1], predictions.REACH * fit.range[2][1])
    asked = answers.Questions(budgets, **{**numbers, "unique": _unique(flags, fit)})
    noise = predictions.scatter(fit, table)
    for line in answers.lines(fit, asked, noise):
        print(line)
    if "hold_out" in flags:
        _hold_out(fit, table)
    if "output" in flags:
        _write(flags, fit, asked, noise)
    return 0


def _unique(flags: dict[str, str], fit: Any) -> float | None:
    """How many different tokens there are, for laws that ask: what was named, else those of the study's data."""
    from pretrainx.scaling import manifest, next_config, predictions

    if not predictions.asks_unique(fit):
        if "unique" in flags:
            raise ConfigError(
                "the fit takes each token as a new one",
                where="--unique",
                why=f"its form is {fit.form}",
                do="leave it out, or fit --form=data_constrained",
            )
        return None
    if "unique" in flags:
        return _number("unique", flags["unique"])
    directory = Path(flags.get("workdir", ""))
    known = "workdir" in flags and (directory / manifest.NAME).is_file()
    return next_config.corpus_of(manifest.read(directory)) if known else None


def _hold_out(fit: Any, table: Any) -> None:
    from pretrainx.core.readable import aligned
    from pretrainx.scaling import holdout
    from pretrainx.scaling.fit_options import FitOptions

    if table is None:
        raise _needs("--hold_out", "the runs that are held out are read from a study")
    if fit.method == "envelope":
        raise ConfigError(
            "an envelope holds no budget out",
            where="--hold_out",
            why="its points are evaluations on the way of runs of any budget",
            do="fit another way: --method=isoflop, curve or parametric",
        )
    chosen = _held(fit, table)
    if not chosen:
        holdout.hold_out(table, FitOptions(**fit.options))  # it says why there is none
    for name, found in chosen.items():
        print(f"\nheld out, predicted by {name}")
        print("\n".join(aligned([holdout.HEADER, *map(holdout.row, found)])))


def _write(flags: dict[str, str], fit: Any, asked: Any, noise: float | None) -> None:
    import math

    from pretrainx.scaling import inverse, manifest, next_config

    if "workdir" not in flags:
        raise _needs("--output", "a run's shape, data and rates come from a study")
    if asked.budgets:
        budget = asked.budgets[-1]
    elif asked.parameters is not None:
        tokens = inverse.tokens_for(fit, asked.parameters, asked.loss, asked.unique)
        budget = tokens * float(fit.cost.per_token(asked.parameters))
    else:
        budget = inverse.budget_for(fit, asked.loss, asked.unique)
    study = manifest.read(Path(flags["workdir"]))
    found = next_config.next_run(study, fit, budget, flags["workdir"], asked.parameters, noise, asked.unique)
    facts = found.run.facts
    print(
        f"\nnext run  {facts['shape']}: N {facts['parameters'][facts['counted']]:,}, D {facts['tokens']:,.0f} "
        f"{facts['unit']}s, {facts['steps']:,} steps of {facts['batch_size']} rows, rate {facts['learning_rate']:.4g}, "
        f"{facts['flops']:.4g} FLOPs; predicted loss {'unknown' if math.isnan(found.loss) else f'{found.loss:.5g}'}"
    )
    for note in found.notes:
        print(f"warning: {note}")
    path, beside = next_config.write(found, flags["output"])
    print(f"written: {path} and {beside}\n  pretrainx train --config={path} --workdir=DIR")


def _held(fit: Any, table: Any) -> dict[str, Any]:
    """{what a budget was predicted by: budgets}: by the fit's own choices, and by what the budgets below the largest chose."""
    from dataclasses import replace

    import numpy as np

    from pretrainx.scaling import budgets, holdout
    from pretrainx.scaling.fit_options import FitOptions

    if fit.method == "envelope":  # its rows are no runs of one budget each
        return {}
    own = FitOptions(**fit.options)
    found = {f"the fit's own choices ({holdout.words(own)})": holdout.roll(table, own)}
    below = budgets.by_budget(table)[:-1]
    if len(below) > holdout.LEAST:
        chosen, _ = holdout.choose(table.take(np.concatenate(below)))
        chosen = replace(chosen, replicates=own.replicates, seed=own.seed)
        if holdout.words(chosen) != holdout.words(own):
            name = f"what predicts best within the budgets below the largest ({holdout.words(chosen)})"
            found[name] = [holdout.hold_out(table, chosen)]
    return {name: held for name, held in found.items() if held}


def _report(arguments: Arguments) -> int:
    flags = arguments.flags
    if "workdir" not in flags and not ("fit" in flags and "table" in flags):
        raise _needs("pretrainx scaling report", "it shows the runs of a study beside the fit", "--workdir=DIR")

    from pretrainx.scaling import manifest, page, pictures, predictions

    directory = Path(flags.get("workdir", "."))
    study = manifest.read(directory) if (directory / manifest.NAME).is_file() else None
    output = flags.get("output") or str(directory / page.NAME)
    title = directory.absolute().name if "workdir" in flags else Path(flags["table"]).stem
    if study is not None and study.kind == "grid":
        from pretrainx.scaling import outcome

        print(f"written: {page.write(output, title, manifest=study, panel=outcome.panel(directory))}")
        return 0
    fit = _fit(flags)
    table = _results(flags, fit)
    chosen = _held(fit, table)
    target = _number("budget", flags["budget"]) if "budget" in flags else predictions.REACH * fit.range[2][1]
    scene = pictures.Scene(fit, table, target, next(iter(chosen.values()), ()), _unique(flags, fit))
    print(f"written: {page.write(output, title, scene, study, chosen)}")
    return 0


def _fit(flags: dict[str, str]) -> Any:
    from pretrainx.scaling import fit_file

    if "fit" not in flags and "workdir" not in flags:
        raise _needs("pretrainx scaling predict", "it reads a fit", "--workdir=DIR, or --fit=FILE.json")
    return fit_file.load(flags.get("fit") or Path(flags["workdir"]) / fit_file.NAME)


def _results(flags: dict[str, str], fit: Any) -> Any:
    """The rows that the fit is of: those of a table, a study's runs, or all of their evaluations for an envelope. Where they
    are others now than when it was fitted, it is said."""
    from pretrainx.scaling import read_table

    if "table" in flags:
        columns = read_table.column_map(flags.get("columns", ""))
        table, again = (
            read_table.read(flags["table"], columns, flags.get("where", "")),
            f"--table={flags['table']} --columns=...",
        )
    else:
        where, again = read_table.where_of(fit.source), f"--workdir={flags['workdir']}"
        table = read_table.read_results(flags["workdir"], fit.method == "envelope", where)
        again += f" '--where={where}'" * bool(where)
    if table.digest() != fit.digest:
        print(f"warning: the fit is of other data than {table.source} has now; again: pretrainx scaling fit {again}")
    return table


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise ConfigError(
            f"--{name} is a number above zero", where="command line", why=f"got {text!r}", do=f"such as --{name}=1e15"
        )
    return number


def _needs(where: str, why: str, do: str = "--workdir=DIR") -> ConfigError:
    return ConfigError("the directory of a study is needed", where=where, why=why, do=do)


_FIT = Flag("fit", "the file of a fit (default DIR/fit.json)", "FILE.json")
COMMANDS = (
    Command(
        "scaling predict",
        "what a fit says: the best N, D and loss of budgets, other sizes, inverse questions; writes the next run's config",
        _predict,
        (
            Flag("workdir", "the directory of a study", "DIR"),
            _FIT,
            Flag("budget", "training FLOPs (default: the largest fitted, and ten times that)", "C,C,..."),
            Flag("loss", "the FLOPs that reach it; with --parameters the tokens, with --tokens the size", "L"),
            Flag("parameters", "a size: its loss with --tokens or --budget; with --output, of the next run", "N"),
            Flag("tokens", "how much is read: the loss with --parameters or --budget", "D"),
            Flag("inference", "the size that is cheapest to train and to serve so many tokens with", "TOKENS"),
            Flag("unique", "how many different tokens there are, of data_constrained fits (default: the study's)", "U"),
            Flag("hold_out", "predict each budget from those below it, beside two baselines"),
            Flag("output", "write the config of the last budget's run, and FILE.facts.json", "FILE.json"),
        ),
    ),
    Command(
        "scaling report",
        "a study as one HTML page: isoFLOP curves, frontier, residuals, held-out budgets, the fit and its origins",
        _report,
        (
            Flag("workdir", "the directory of a study", "DIR"),
            _FIT,
            Flag("table", "the table of --fit, where it is not of a study", "FILE"),
            Flag("columns", "what its columns are, as in scaling fit", "NAME:COLUMN,..."),
            Flag("where", "which of its rows, as in scaling fit", "CONDITION,..."),
            Flag("budget", "training FLOPs to which laws are drawn (default: ten times the largest fitted)", "C"),
            Flag("output", "the page (default DIR/report.html)", "FILE.html"),
        ),
    ),
)
