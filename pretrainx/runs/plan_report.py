"""`pretrainx plan`: a configuration and a machine in, text and JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import quantity, size
from pretrainx.parallel import machines
from pretrainx.runs import plan, plan_changes, plan_limits, plan_sweep
from pretrainx.runs.introduction import tell_all
from pretrainx.runs.plan import Plan


def report(
    values: dict,
    topology: str,
    output: str = "",
    effort: str = "low",
    search: bool = True,
    sweep: bool = False,
    limit: int = 0,
    say: Callable[[str], None] = print,
) -> int:
    """Plans the run and returns 0, whether it fits or not: that is the answer, and the JSON's `fits` says it.

    Args:
      topology: as `machines.parse` reads it. output: the JSON file, "" for none.
      effort: of the compiler, "low" or "full".
      search: whether a change that fits is looked for where the run does not.
      sweep: meshes and microbatches are ranked instead.
      limit: compiles at most, of a search or a sweep; 0 is their default.
    """
    machine = machines.parse(topology)
    if output:
        refuse_unwritable(Path(output))
    devices = machines.described(machine)
    if sweep:
        entries = plan_sweep.sweep(values, machine, devices, effort, say, limit or plan_limits.SWEEP)
        tell_all(plan_sweep.lines(entries), say)
        found = {"version": plan.VERSION, "topology": machine.text, "sweep": plan_sweep.record(entries)}
    else:
        layout = plan.lay_out(values, machine, devices)
        say(f"compiling the train step for {machine.text} ...")
        made = plan.make(layout, effort)
        found = plan.record(made)
        tell_all(lines(made, found), say)
        if made.known and not made.fits and search:
            change, tried = plan_changes.search(values, made, devices, effort, say, limit or plan_limits.SEARCH)
            tell_all(change_lines(change, tried), say)
            form = lambda each: {"overrides": dict(each.overrides), "peak": each.peak, "fits": each.fits}
            found |= {"change": change and form(change), "tried": [form(each) for each in tried]}
    if output:
        Path(output).write_text(json.dumps(found, indent=1) + "\n")
        say(f"written: {output}")
    return 0


def refuse_unwritable(path: Path) -> None:
    """ConfigError where the file could not be written: said before minutes of compiling, not after."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(
            "the plan cannot be written",
            where=f"--output={path}",
            why="it is a directory" if path.is_dir() else f"there is no directory {path.absolute().parent}",
            do="name a file in a directory that is there",
        )


def lines(made: Plan, found: dict) -> Iterator[str]:
    """What a person reads of a plan and its record."""
    batch, memory, flops = found["batch"], found["memory"], found["flops"]
    slices = f" in {found['slices']} slices" if found["slices"] > 1 else ""
    yield f"{found['topology']}: {found['devices']} devices{slices}, mesh {plan_sweep.shown(found['mesh'])}"
    yield from (f"assumed: {line}" for line in found["assumed"])
    yield (
        f"{quantity(found['parameters'])} parameters; {batch['rows']} rows a step = {batch['microbatches']} microbatches x "
        f"{batch['rows_per_device']} rows per device; host batch {size(batch['host_bytes'])}; "
        f"checkpoint {size(found['checkpoint_bytes'])}"
    )
    yield "\nmemory, per device"
    for kind in ("parameters", "optimizer", "gradients", "averages", "extras", "batch"):
        if memory[kind]:
            yield f"  {kind:<28}{size(memory[kind]):>14}   counted"
    yield f"  {'activations and temporaries':<28}{size(memory['activations_and_temporaries']):>14}   the rest of the peak"
    yield f"  {'peak':<28}{size(memory['peak']):>14}   by the compiler, {found['compile_seconds']} s"
    answer = f"{'fits' if found['fits'] else 'DOES NOT FIT'}, {memory['peak'] / memory['device']:.0%} of it"
    answer = "the compiler tells no sizes on this platform" if found["fits"] is None else answer
    yield f"  {'device':<28}{size(memory['device']):>14}   {answer}"
    yield "\nFLOPs"
    if flops["per_step"]:
        per_unit = quantity(flops["per_row"] / batch["units_per_row"])
        yield f"  {flops['per_step']:.4g} a step, {per_unit} per {batch['unit']}: {flops['convention']}"
    if flops["six_n_per_step"]:
        yield f"  {flops['six_n_per_step']:.4g} a step by 6 N D, every parameter counted"
    yield f"  {flops['executed_per_step']:.4g} a step in the products that the program executes"
    yield from floor_lines(made, found)
    for title, key in (("kept whole on each device", "kept_whole"), ("warnings", "warnings")):
        if found[key]:
            yield f"\n{title}"
            yield from (f"  {line}" for line in found[key])


def floor_lines(made: Plan, found: dict) -> Iterator[str]:
    if made.floor is None:
        return
    yield "\ncollectives, bytes that a device sends in a step"
    for row in found["collectives"]:
        where = f"   largest {size(row['largest'])}: {row['where']}"
        yield f"  {row['kind']:<20}{'+'.join(row['axes']):<14}{size(row['bytes']):>14}  in {row['count']:>5}{where}"
    yield "\nthe least time of a step"
    yield from (f"  {line}" for line in made.floor.lines())


def change_lines(change: plan_changes.Tried | None, tried: tuple[plan_changes.Tried, ...]) -> Iterator[str]:
    yield ""
    for each in tried:
        how = "" if each.compiled else " of state, gradients and batch alone: not compiled"
        yield f"{'fits' if each.fits else 'does not fit'}, {size(each.peak)}{how}: {each.words()}"
    yield (
        f"the nearest change that fits: {change.words()}"
        if change
        else "none of these fits: more or larger devices are needed"
    )
