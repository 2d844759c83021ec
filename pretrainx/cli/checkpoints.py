"""The commands on checkpoints: ckpt list, ckpt inspect, ckpt verify."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number


def _list(arguments: Arguments) -> int:
    from pretrainx.runs.checkpoints import listed

    return listed(arguments.flags["workdir"])


def _inspect(arguments: Arguments) -> int:
    from pretrainx.runs.checkpoints import inspected

    return inspected(arguments.flags["workdir"], whole_number(arguments, "step") if "step" in arguments.flags else None)


def _verify(arguments: Arguments) -> int:
    from pretrainx.runs.checkpoints import verified

    every = arguments.flags.get("step", "all") == "all"
    return verified(arguments.flags["workdir"], None if every else whole_number(arguments, "step"))


WORKDIR = Flag("workdir", "the directory of the run", "DIR", required=True)

COMMANDS = (
    Command("ckpt list", "list a run's checkpoints: step, size, age, losses, and what is damaged", _list, (WORKDIR,)),
    Command(
        "ckpt inspect",
        "show what a checkpoint holds, without reading its arrays: config, versions, data, leaves and checksums",
        _inspect,
        (WORKDIR, Flag("step", "which one (default: the newest)", "N")),
    ),
    Command(
        "ckpt verify",
        "read every leaf and compare its checksum; exit 4 names what is damaged, nothing is changed",
        _verify,
        (WORKDIR, Flag("step", "which one (default: all)", "N|all")),
    ),
)
