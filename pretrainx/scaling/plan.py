"""From a study's configuration to its list of runs: budgets and sizes, sizes and multiples, or a grid of overrides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import quantity
from pretrainx.scaling import extend, grid, shapes
from pretrainx.scaling.guesses import cost_of, guess_of
from pretrainx.scaling.manifest import Manifest, Run
from pretrainx.scaling.planner import Planner, bytes_of, planner_of, run_of, seeded, short, sizes_for
from pretrainx.scaling.shapes import Size
from pretrainx.scaling.study import StudyConfig, split

ORDER = (
    "runs of one seed read the same rows in the same order, whatever their batch; all are held against the same held-out "
    "split, which goes by documents' names"
)


def plan(
    values: dict[str, Any],
    directory: str | Path,
    say: Callable[[str], None] = print,
    prepare: bool = False,
    dry_run: bool = False,
) -> Manifest:
    """The manifest of a study, written in `directory`; one that is there is extended, or found as it should be.

    Args:
      values: of the config file, its section `study` included.
      prepare: prepare the data that all runs share now, where they are not: then it is known how many there are.
      dry_run: write nothing.

    Raises ConfigError for what cannot be meant, and where a run that has begun would no longer be in the study.
    """
    run_values, study = split(values)
    if study is None:
        raise ConfigError(
            "the configuration is of a run, not of a study",
            where="config.study",
            why="there is no such section",
            do="--config.study.smallest=1e12 makes one of four budgets from 1e12 FLOPs on, --grid a sweep",
        )
    directory = Path(directory)
    extend.refuse_foreign(directory)
    planner = planner_of(run_values, study, directory, say, prepare)
    makers = {"isoflop": (isoflop,), "ladder": (ladder,), "both": (isoflop, ladder), "grid": (sweep,)}[study.kind]
    runs = {run.id: run for make in makers for run in make(planner)}
    # Small ones first: what is wrong with a study is then seen soon.
    ordered = tuple(sorted(runs.values(), key=lambda run: run.facts["flops"] or run.facts["flops_6nd"]))
    manifest = Manifest(study.kind, strict.as_dict(study), facts_of(ordered, planner), ordered)
    return extend.written(manifest, directory, say, dry_run)


def facts_of(runs: tuple[Run, ...], planner: Planner) -> dict[str, Any]:
    """Of the study; `base` is the configuration that all runs are changes of, `bytes` are of the largest model's state."""
    study, flops = planner.study, [run.facts["flops"] for run in runs]
    return {
        "convention": study.convention,
        "counted": study.counted,
        "unit": runs[0].facts["unit"],
        "flops": math.fsum(flops) if all(flops) else None,
        "order": ORDER,
        "bytes": bytes_of(planner, max(runs, key=lambda run: run.facts["parameters"]["total"])),
        "notes": planner.told(),
        "base": strict.as_dict(planner.recipe),
    }


def isoflop(planner: Planner) -> Iterator[Run]:
    """Per budget sizes around the guessed optimum, each trained for the units that the budget leaves it."""
    study, notes = planner.study, planner.notes
    budgets, (guess, said) = study.flops(), guess_of(study)
    notes += said
    sizes = sizes_for(planner, lambda found: guess(budgets[-1], cost_of(found)) * study.spread)
    cost = cost_of(sizes)
    if not 5 <= study.sizes <= 9:
        notes.append(f"{study.sizes} sizes per budget: 5 to 9 are advised, and fewer than 3 have no minimum")
    if len(budgets) < 4:
        notes.append(f"{len(budgets)} budgets: a power law needs 3, and one that is held out is the fourth")
    for budget in budgets:
        best = guess(budget, cost)
        chosen = shapes.spread(sizes, best, study)
        notes += doubts(chosen, budget, best, study)
        for _, size in chosen:
            yield from seeded(planner, size, budget / size.flops, {"budget": budget}, f"c{short(budget)}")


def doubts(chosen: list[tuple[float, Size]], budget: float, best: float, study: StudyConfig) -> Iterator[str]:
    """What a budget's sizes lack, in lines."""
    found = [size.parameters for _, size in chosen]
    if len(chosen) < study.sizes:
        yield f"budget {budget:.3g}: {len(chosen)} sizes of {study.sizes}, no more shapes are there"
    step = 2 * math.log(study.spread) / max(study.sizes - 1, 1)
    off = [pair for pair in chosen if abs(math.log(pair[1].parameters / pair[0])) > step / 2]
    if off:
        each = ", ".join(f"{shapes.named(size)} for {quantity(target)}" for target, size in off)
        yield f"budget {budget:.3g}: sizes would collapse onto one shape, so farther ones are taken: {each}; {FINER}"
    if len(found) < 3 or not found[0] * 1.05 < best < found[-1] / 1.05:
        yield (
            f"budget {budget:.3g}: the guessed optimum, {quantity(best)}, lies at the edge of the sizes "
            f"{', '.join(map(quantity, found))}; a wider spread has it inside"
        )


FINER = "smaller heads or more config.study.slack give more shapes"


def ladder(planner: Planner) -> Iterator[Run]:
    """Sizes x multiples of tokens_per_parameter."""
    study = planner.study
    sizes = sizes_for(planner, lambda found: max(study.parameters))
    chosen: list[Size] = [] if study.parameters else sizes
    for target in study.parameters:
        size = shapes.nearest(sizes, target, tuple(chosen))
        if size is None:
            planner.notes.append(f"ladder: no shape is left for {quantity(target)} parameters")
            continue
        chosen.append(size)
        if abs(math.log(size.parameters / target)) > 0.1:
            planner.notes.append(f"ladder: the nearest shape to {quantity(target)} is {shapes.named(size)}; {FINER}")
    for size in chosen:
        for multiple in study.multiples:
            tokens = multiple * study.tokens_per_parameter * size.parameters
            yield from seeded(planner, size, tokens, {"budget": None, "multiple": multiple}, f"x{short(multiple)}")


def sweep(planner: Planner) -> Iterator[Run]:
    """A run for each set of overrides, and for each seed of the study. ConfigError where two are the same run."""
    study, seen = planner.study, {}
    for overrides in grid.product(study.grid) if study.grid else grid.lines(study.list):
        for changes in [{**overrides, "seed": seed} for seed in study.seeds] or [overrides]:
            words = "-".join(f"{key.split('.')[-1]}{short(value)}" for key, value in changes.items())
            run = run_of(planner, changes, planner.count(changes), {"budget": None}, words[:60])
            digest = run.id.rpartition("-")[2]
            if digest in seen:
                raise ConfigError(
                    "two sets of overrides are the same run",
                    where="config.study.grid" if study.grid else f"config.study.list: {study.list}",
                    why=f"{grid.words(seen[digest])}; {grid.words(changes)}",
                    do="keep one of them",
                )
            seen[digest] = changes
            yield run
