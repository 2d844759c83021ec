"""The command that looks at a run on a machine that is not there: plan."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number
from pretrainx.core.errors import ConfigError, nearest
from pretrainx.runs import plan_limits

EFFORTS = ("low", "full")


def _plan(arguments: Arguments) -> int:
    flags = arguments.flags
    effort = flags.get("effort", "low")
    if effort not in EFFORTS:
        raise ConfigError(
            f"unknown effort {effort!r}", where="--effort", why=nearest(effort, EFFORTS), do="--effort=full"
        )
    limit = whole_number(arguments, "limit") if "limit" in flags else 0

    from pretrainx.parallel import machines

    machines.prepare(machines.parse(flags["topology"]))  # before anything imports JAX
    from pretrainx.cli.config_file import load
    from pretrainx.runs.plan_report import report

    values = load(flags["config"], arguments.overrides)
    chosen = {"effort": effort, "search": "no_search" not in flags, "sweep": "sweep" in flags, "limit": limit}
    return report(values, flags["topology"], flags.get("output", ""), **chosen)


COMMANDS = (
    Command(
        "plan",
        "compile a run's train step for a machine that is not there: memory, FLOPs, collectives, the least time of a step",
        _plan,
        (
            Flag("config", "a config file, or a run's config.json", "FILE[:ARG]", required=True),
            Flag("topology", "such as v5p:8x8x8, 2*v5e:16x16, h100:8, h100:4x8 or cpu:8", "MACHINE", required=True),
            Flag("output", "write the plan as JSON, too", "FILE.json"),
            Flag("sweep", "try meshes and microbatches, and rank those that fit"),
            Flag(
                "limit",
                f"compile at most N configurations in a sweep ({plan_limits.SWEEP}), or in search of a change that fits "
                f"({plan_limits.SEARCH})",
                "N",
            ),
            Flag("effort", "of the compiler: low (default: fast, peaks within some percent) or full", "low|full"),
            Flag("no_search", "where it does not fit, look for no change that does"),
        ),
        overrides=True,
    ),
)
