"""The commands on a run: train, replay, report."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number


def _train(arguments: Arguments) -> int:
    from pretrainx.cli.config_file import load
    from pretrainx.training.signals import Signals

    values = load(arguments.flags["config"], arguments.overrides)
    allowed = tuple(filter(None, arguments.flags.get("allow_change", "").split(",")))
    if "dry_run" in arguments.flags:
        from pretrainx.runs.dry_run import dry_run

        of_file = load(arguments.flags["config"], complete=False)
        return dry_run(values, arguments.flags["workdir"], allowed, of_file)
    with Signals():  # imports take seconds: a signal that comes meanwhile ends the run as it would later
        from pretrainx.runs.train import train

        return train(values, arguments.flags["workdir"], allowed)


def _replay(arguments: Arguments) -> int:
    from pretrainx.runs.replay import replay

    numbers = {name: whole_number(arguments, name) for name in ("step", "rows", "forward") if name in arguments.flags}
    return replay(arguments.flags["workdir"], **numbers)


def _report(arguments: Arguments) -> int:
    from pretrainx.report.page import write

    print(write(arguments.flags["output"], arguments.positionals))
    return 0


COMMANDS = (
    Command(
        "train",
        "train a run, or resume it: the same command again goes on from the last checkpoint",
        _train,
        (
            Flag("config", "a config file, or a run's config.json", "FILE[:ARG]", required=True),
            Flag("workdir", "the directory of the run", "DIR", required=True),
            Flag("allow_change", "on resume, what may differ from the checkpoint (such as data)", "KEY,..."),
            Flag("dry_run", "do everything but train: show config, parameters, memory, disk, the first batch"),
        ),
        overrides=True,
    ),
    Command(
        "replay",
        "make one step's batch again: its rows as text, the loss of each, and whether the logged loss reproduces",
        _replay,
        (
            Flag("workdir", "the directory of the run", "DIR", required=True),
            Flag("step", "the batch that the update from step N to N + 1 read", "N", required=True),
            Flag("rows", "how many rows to show as text, those of the largest loss (default 4)", "K"),
            Flag("forward", "roll forward from a checkpoint that is at most so many steps earlier (default 20)", "K"),
        ),
    ),
    Command(
        "report",
        "write one self-contained HTML page about one or several runs",
        _report,
        (Flag("output", "the page to write", "FILE.html", required=True),),
        positionals="RUN",
    ),
)
