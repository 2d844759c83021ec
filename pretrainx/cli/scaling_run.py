"""`pretrainx scaling run`: the runs of a study, here or as commands for other machines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number
from pretrainx.core.errors import ConfigError, nearest


def _run(arguments: Arguments) -> int:
    flags = arguments.flags
    directory = Path(flags["workdir"])
    numbers = {name: whole_number(arguments, name) for name in ("workers", "retries") if name in flags}
    if "collect" in flags:
        stray = [f"--{name}" for name in ("workers", "retries", "print") if name in flags]
        if stray:
            raise ConfigError(
                f"{', '.join(stray)} and --collect do not go together",
                where="pretrainx scaling run",
                why="--collect trains nothing",
                do="leave one out",
            )
        from pretrainx.scaling.collect import collect

        states = Counter(row["status"] for row in collect(directory))
        print(f"{directory / 'results.csv'}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
        return 0
    if "print" in flags:
        from pretrainx.scaling.commands import KINDS, printed

        if flags["print"] not in KINDS:
            raise ConfigError(
                f"unknown form {flags['print']!r}",
                where="--print",
                why=nearest(flags["print"], KINDS),
                do="--print=slurm",
            )
        print(printed(flags["print"], directory))
        return 0

    from pretrainx.scaling.queue import run

    run(directory, **numbers)
    return 0


COMMANDS = (
    Command(
        "scaling run",
        "run what is left of a study: done runs are skipped, half-done ones go on, failed ones are tried again",
        _run,
        (
            Flag("workdir", "the study's directory", "DIR", required=True),
            Flag(
                "workers",
                "runs at a time, each with its share of the cores or a GPU (default: one per GPU, else one)",
                "N",
            ),
            Flag("retries", "how often a run that failed is started again (default 2)", "N"),
            Flag(
                "print",
                "run nothing: print an array job, a Ray job (whose list of runs is written to DIR/runs.txt), or the commands",
                "slurm|ray|commands",
            ),
            Flag("collect", "run nothing: write the table of what was trained elsewhere, such as by such a job"),
        ),
    ),
)
