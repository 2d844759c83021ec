"""One run of a study: its shape, its length in whole steps, its rate by the study's rule, and all that is known of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.parallel import mesh
from pretrainx.runs import assumed, parts
from pretrainx.runs import recipe as recipes
from pretrainx.runs.compiled import counted_bytes
from pretrainx.runs.plan_changes import changed
from pretrainx.scaling import counting, grid, shapes
from pretrainx.scaling.corpus import Corpus, opened, repetition
from pretrainx.scaling.manifest import Run, identity
from pretrainx.scaling.rates import Cell, warmup_of
from pretrainx.scaling.shapes import Shape, Size
from pretrainx.scaling.study import StudyConfig
from pretrainx.training import state as states

ROUNDING, FEW_STEPS = 0.01, 50  # what is warned of: FLOPs off by so much, runs of fewer steps
Changes = dict[str, Any]


@dataclasses.dataclass
class Planner:
    """What all runs of a study have in common.

    Attributes:
      values: the run's configuration as it was given; recipe: the same, parsed.
      rows: what batches are multiples of.
      notes: what was found of the study, a line each.
      warned: {kind: [(how bad, line)]} of runs, of which the worst of each kind is told.
    """

    values: Changes
    study: StudyConfig
    recipe: Any
    corpus: Corpus
    rows: int
    notes: list[str]
    warned: dict[str, list[tuple[float, str]]] = dataclasses.field(default_factory=dict)

    def resolved(self, changes: Changes) -> Any:
        """The recipe of a run, with a tokenizer of pictures filled in."""
        found = recipes.parse(changed(self.values, tuple(changes.items())))
        return assumed.with_tokenizer(found, self.corpus.about, []) if isinstance(self.corpus.about, Images) else found

    def count(self, changes: Changes) -> Any:
        return counting.count(self.resolved(changes), self.corpus.about)

    def size(self, shape: Shape) -> Size:
        return shapes.size_of(shape, self.count, self.study)

    def warn(self, kind: str, amount: float, line: str) -> None:
        self.warned.setdefault(kind, []).append((amount, line))

    def told(self) -> list[str]:
        """The notes, and of each kind of warning the worst with how many runs it is true of."""
        more = lambda found: f" (and {len(found) - 1} more runs likewise)" if len(found) > 1 else ""
        return [*self.notes, *(max(found)[1] + more(found) for found in self.warned.values())]


def planner_of(
    values: Changes, study: StudyConfig, directory: Path, say: Callable[[str], None], prepare: bool = False
) -> Planner:
    """`values` of a run without the section `study`; where they name no shared data, these are in DIR/data."""
    shared = recipes.parse(values).data.cache or str((directory / "data").absolute())
    values = changed(values, (("data.cache", shared),))
    recipe, notes = recipes.parse(values), []
    about, completed, _ = assumed.about(recipe)
    corpus = opened(recipe, Path(shared), counting.count(completed, about).unit, prepare, say)
    notes += [f"assumed of the data: {line}" for line in corpus.assumed]
    if corpus.units is None:
        notes.append("the data are not prepared, so how often they are read is not known: --prepare prepares them now")
    return Planner(values, study, recipe, corpus, unit_of_batch(recipe, notes), notes)


def unit_of_batch(recipe: Any, notes: list[str]) -> int:
    """Rows that a batch is a multiple of: ways of the mesh over this machine's devices x microbatches."""
    try:
        ways = mesh.sizes(recipe.mesh, jax.device_count())
    except ConfigError:
        ways = tuple(max(size, 1) for size in dataclasses.astuple(recipe.mesh))
        notes.append("config.mesh does not fit the devices here: an axis of -1 counts as one device")
    split = dict(zip(mesh.AXES, ways, strict=True))
    return math.prod(split[axis] for axis in ("data", "fsdp", "expert", "stage")) * recipe.train.microbatches


def bytes_of(planner: Planner, run: Run) -> dict[str, int] | None:
    """{kind: bytes on each device here} of a run's state; None where config.mesh does not fit the devices here.

    ConfigError for what only a laid out model shows, such as a width that the mesh does not divide.
    """
    try:
        mesh.sizes(planner.recipe.mesh, jax.device_count())
    except ConfigError:
        return None
    found = parts.assemble(planner.resolved(run.changes), planner.corpus.about)
    like = states.abstract(found.objective, found.optimizer, found.options, found.found)
    counted = counted_bytes(like, {})
    return {kind: counted[kind] for kind in ("parameters", "optimizer", "averages") if counted[kind]}


def sizes_for(planner: Planner, most: Callable[[list[Size]], float]) -> list[Size]:
    """Shapes of the study's rule with their counts, until N is well above `most` of those found so far; all that are listed."""
    study = planner.study
    if study.shapes:
        return [planner.size(shape) for shape in shapes.listed(study, grid.overrides)]
    shapes.check_model(planner.recipe.model)
    found: list[Size] = []
    for shape in shapes.grown(planner.recipe, study):
        found.append(planner.size(shape))
        if len(found) > 1 and shape.off < 0.05 and found[-1].parameters > 1.3 * most(found):
            break
    return found


def seeded(planner: Planner, size: Size, tokens: float, facts: Changes, prefix: str) -> Iterator[Run]:
    """A run of this size that reads about so many units, for each seed of the study."""
    for seed in planner.study.seeds or (planner.recipe.seed,):
        yield trained(planner, size, tokens, facts, f"{prefix}-n{short(size.parameters)}-s{seed}", {"seed": seed})


def trained(planner: Planner, size: Size, tokens: float, facts: Changes, name: str, changes: Changes) -> Run:
    """The run of a size that reads as many units as whole steps allow; rate and batch by the study's rule."""
    study, counts = planner.study, size.counts
    changes = {**size.shape.changes, **changes, **study.rate.base(shapes.towers(planner.recipe.model))}
    recipe = planner.resolved(changes)
    cell = Cell(recipe, size.parameters, tokens * size.flops, tokens, counts.units_per_row, planner.rows)
    changes |= study.rate.changes(cell)
    per_step = changes.get("train.batch_size", recipe.train.batch_size) * counts.units_per_row
    steps = round(tokens / per_step)
    if steps < 2:
        raise ConfigError(
            "a run is shorter than two steps",
            where="config.study.budgets" if facts["budget"] else "config.study.multiples",
            why=f"{name}: {tokens:.3g} {counts.unit}s, and a step reads {per_step:.3g}",
            do="larger budgets, a smaller config.train.batch_size or spread, or smaller sizes",
        )
    changes |= {"train.steps": steps, **warmup_of(study.warmup, steps, per_step, recipe.schedule)}
    if study.evaluations:
        changes["train.eval_every"] = max(1, math.ceil(steps / study.evaluations))
    off = steps * per_step / tokens - 1
    if abs(off) > ROUNDING:
        planner.warn(
            "rounding", abs(off), f"{name}: whole steps change its FLOPs by {off:+.1%}; a smaller batch rounds less"
        )
    if steps < FEW_STEPS:
        planner.warn(
            "steps", -steps, f"{name}: {steps} steps only; a smaller batch or a larger budget trains it better"
        )
    return run_of(planner, changes, counts, {**facts, "shape": size.shape.words(), "flops_error": off}, name)


def run_of(planner: Planner, changes: Changes, counts: Any, facts: Changes, name: str) -> Run:
    """A run with everything that is known of it. Its id ends in a hash of the resolved config, the place of the shared data
    left out: a study may be moved."""
    study, recipe = planner.study, recipes.parse(changed(planner.values, tuple(changes.items())))
    recipes.check_batch(recipe, max(planner.rows // planner.recipe.train.microbatches, 1))
    config, corpus = strict.as_dict(recipe), planner.corpus
    units = recipe.train.steps * recipe.train.batch_size * counts.units_per_row
    shapes.refuse_unknown(counts.parameters, study.counted, "counted")
    if counts.flops:
        shapes.refuse_unknown(counts.flops, study.convention, "convention")
    unique, epochs = corpus.unique(units), corpus.epochs(units)
    if epochs is not None and epochs > 1:
        planner.warn("repetition", epochs, f"{name}: {repetition(units, unique, counts.unit)}")
    known = {
        "parameters": dict(counts.parameters),
        "counted": study.counted,
        "tokens": units,
        "unit": counts.unit,
        "units_per_row": counts.units_per_row,
        "tokens_per_parameter": units / counts.parameters[study.counted],
        "unique_tokens": unique,
        "corpus": corpus.units,
        "epochs": epochs,
        "flops": units * counts.flops[study.convention] if counts.flops else None,
        "flops_6nd": 6.0 * counts.parameters["total"] * units,
        "convention": study.convention,
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "learning_rate": recipe.schedule.peak,
        "warmup": getattr(recipe.schedule, "warmup", 0),
        "seed": recipe.seed,
        "rule": strict.as_dict(study)["rate"]["name"] if study.kind != "grid" else "none",
    }
    data = {key: value for key, value in config["data"].items() if key != "cache"}
    return Run(f"{name}-{identity({**config, 'data': data})}", changes, config, {**known, **facts})


def short(value: Any) -> str:
    """A value in a run's id: 482560 -> "482.6k", 1e12 -> "1e12", 0.001 -> "0.001"; letters, digits, "." and "-" alone."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) >= 1e9 or value != 0 and abs(value) < 1e-4:
            mantissa, exponent = f"{value:e}".split("e")
            return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
        return (
            f"{value:.4g}" if abs(value) < 1e4 else f"{value / 1e3:.4g}k" if abs(value) < 1e6 else f"{value / 1e6:.4g}M"
        )
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-")
