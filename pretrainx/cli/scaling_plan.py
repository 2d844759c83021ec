"""`pretrainx scaling plan`: from a study's configuration to a list of runs and what they cost."""

from __future__ import annotations

from pathlib import Path

from pretrainx.cli.arguments import Arguments, Command, Flag, real_number


def _plan(arguments: Arguments) -> int:
    flags = arguments.flags
    given = {name: flags[name] for name in ("grid", "list") if name in flags}
    asked = real_number(arguments, "flops_per_second") if "flops_per_second" in flags else None

    from pretrainx.cli.config_file import load
    from pretrainx.scaling import cost_table
    from pretrainx.scaling.plan import plan

    values, directory = load(flags["config"], arguments.overrides), Path(flags["workdir"])
    if given:
        values["study"] = {**values.get("study", {}), "kind": "grid", **given}
    manifest = plan(values, directory, prepare="prepare" in flags, dry_run="dry_run" in flags)
    choices = (
        (asked, "--flops_per_second"),
        (cost_table.measured(directory), "what runs that are done have reached"),
        (cost_table.assumed(), f"an assumed {cost_table.ASSUMED:.0%} of these devices' peak"),
    )
    rate, source = next(((rate, source) for rate, source in choices if rate), (None, ""))
    for line in cost_table.lines(manifest, rate, source):
        print(line)
    return 0


COMMANDS = (
    Command(
        "scaling plan",
        "write the runs of a scaling-law study or of a sweep, and what they cost; again: extend it",
        _plan,
        (
            Flag("config", "with a section study, or a run's with --grid or --list", "FILE[:ARG]", required=True),
            Flag("workdir", "the study's directory", "DIR", required=True),
            Flag("grid", "every combination: 'schedule.peak=1e-3,3e-3; model.width=64,128'", "KEY=V,V;..."),
            Flag("list", "a run for each line of overrides: 'schedule.peak=1e-3 seed=1'", "FILE"),
            Flag("prepare", "prepare the data that all runs share now"),
            Flag("flops_per_second", "by which times are told", "F"),
            Flag("dry_run", "show what would be planned, and write nothing"),
        ),
        overrides=True,
    ),
)
