"""The commands on a run: train, report."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag


def _train(arguments: Arguments) -> int:
    from pretrainx.cli.config_file import load
    from pretrainx.training.signals import Signals

    values = load(arguments.flags["config"], arguments.overrides)
    allowed = tuple(filter(None, arguments.flags.get("allow_change", "").split(",")))
    with Signals():  # imports take seconds: a signal that comes meanwhile ends the run as it would later
        from pretrainx.runs.train import train

        return train(values, arguments.flags["workdir"], allowed)


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
        ),
        overrides=True,
    ),
    Command(
        "report",
        "write one self-contained HTML page about one or several runs",
        _report,
        (Flag("output", "the page to write", "FILE.html", required=True),),
        positionals="RUN",
    ),
)
