"""Sizes of a model family: one dial that moves width and depth of every stack of config.model; the shape nearest to an N."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.core.readable import quantity
from pretrainx.models.stack import StackConfig

DEEPER = 0.3  # how much a depth off the constant ratio counts beside an N off the target, both as logarithms
FINEST = 1.05  # widths, and depths of one width, that are closer than this are not told apart
MOST = 2000  # shapes that are looked at


@dataclass(frozen=True)
class Shape:
    """Attributes:
    changes: {dotted key: value} of the run's configuration.
    off: by what factor the aspect ratio (width / depth) differs from the constant one, as |log|.
    """

    changes: dict[str, Any]
    off: float = 0.0

    def words(self) -> str:
        """Such as "64 x 3": width and depth of each stack; else its overrides."""
        towers = [key.removesuffix(".width") for key in self.changes if key.endswith(".width")]
        sizes = [f"{self.changes[f'{path}.width']} x {self.changes.get(f'{path}.depth', '-')}" for path in towers]
        return " + ".join(sizes) or " ".join(f"{key}={value}" for key, value in self.changes.items())


@dataclass(frozen=True)
class Size:
    """A shape and what it counts.

    Attributes:
      parameters: N by the study's convention; flops: per unit, by the study's convention.
      counts: by every convention (scaling/counting.py).
    """

    shape: Shape
    parameters: float
    flops: float
    counts: Any


def towers(model: Any, path: str = "model") -> dict[str, Any]:
    """{dotted path: section} of the parts of a model that have a width of their own: one, or one for each tower."""
    if hasattr(model, "width"):
        return {path: model}
    return {f"{path}.{name}": getattr(model, name) for name in ("image", "text") if hasattr(model, name)}


def grown(recipe: Any, study: Any) -> Iterator[Shape]:
    """Shapes by the study's rule, from the narrowest (or shallowest) on, without end but for MOST.

    Heads keep their size, key heads their share, the MLP its ratio to the width. Where there are two towers the first one's
    width and depth are the dial, and the other's go along.
    """
    sections = towers(recipe.model)
    lead = next(iter(sections.values()))
    if study.rule == "depth":
        if not hasattr(lead, "depth"):
            raise ConfigError(
                "the model has no depth to change",
                where="config.study.rule",
                why=f"config.model is a {type(recipe.model).__name__}",
                do="--config.study.rule=width, or a list of shapes",
            )
        stages = max(recipe.mesh.stage, 1) * recipe.sharding.rounds
        for depth in range(stages, MOST * stages, stages):
            yield shaped(recipe, study, lead.width, depth)
        return
    multiple, last = multiple_of(lead, recipe, study.width_multiple), 0
    for times in range(1, MOST):
        width = times * multiple
        if width < last * FINEST:
            continue
        last = width
        for depth in depths(lead, width, recipe, study):
            yield shaped(recipe, study, width, depth)


def depths(lead: Any, width: int, recipe: Any, study: Any) -> list[int]:
    """Numbers of blocks for a width: the one of the constant aspect ratio, and those within `slack` of it."""
    if study.rule == "width" or not hasattr(lead, "depth"):
        return [getattr(lead, "depth", 0)]
    exact, stages = lead.depth * width / lead.width, max(recipe.mesh.stage, 1) * recipe.sharding.rounds
    least, most = math.ceil(exact / study.slack / stages), math.floor(exact * study.slack / stages)
    nearest = max(1, round(exact / stages))
    found = [nearest]
    for step in (range(nearest + 1, most + 1), range(nearest - 1, max(least, 1) - 1, -1)):
        last = nearest
        for count in step:
            if max(count / last, last / count) >= FINEST:
                found.append(last := count)
    return [stages * count for count in sorted(found)]


def shaped(recipe: Any, study: Any, width: int, depth: int) -> Shape:
    """The overrides that give the first tower this width and depth."""
    sections, changes = towers(recipe.model), {}
    lead = next(iter(sections.values()))
    wider, deeper = width / lead.width, depth / lead.depth if hasattr(lead, "depth") else width / lead.width
    if study.rule == "width":
        deeper = 1.0
    for path, section in sections.items():
        multiple = multiple_of(section, recipe, study.width_multiple)
        own = width if section is lead else max(1, round(section.width * wider / multiple)) * multiple
        changes |= {f"{path}.{key}": value for key, value in resized(section, own, deeper).items()}
    if getattr(recipe.model, "projection", "") == "text":  # the shared space is as wide as the picture's vectors
        changes["model.embedding"] = round(recipe.model.embedding * wider)
    return Shape(changes, abs(math.log(wider / deeper)) if study.rule == "aspect" and hasattr(lead, "depth") else 0.0)


def resized(section: Any, width: int, deeper: float) -> dict[str, int]:
    """The keys of one section at another width, and `deeper` times its depth."""
    found = {"width": width}
    if not isinstance(section, StackConfig):
        return found
    found["depth"] = max(1, round(section.depth * deeper))
    group = section.heads // section.shared_heads
    found["heads"] = max(1, round(section.heads * width / section.width / group)) * group
    if section.kv_heads:
        found["kv_heads"] = found["heads"] // group
    if section.mlp_width:
        step = math.gcd(section.mlp_width, 128)
        found["mlp_width"] = max(1, round(section.mlp_width * width / section.width / step)) * step
    if getattr(section, "decoder_depth", 0):
        found["decoder_depth"] = max(1, round(section.decoder_depth * deeper))
    return found


def multiple_of(section: Any, recipe: Any, asked: int) -> int:
    """What widths of a section are multiples of: whole heads, whole groups of heads that share keys, whole tensor ways."""
    if not isinstance(section, StackConfig):
        return math.lcm(
            asked or 8, getattr(section, "norm_groups", 1) if getattr(section, "norm", "") == "group" else 1
        )
    heads = math.lcm(section.heads // section.shared_heads, max(recipe.mesh.tensor, 1))
    return math.lcm(asked or 1, heads * max(1, section.width // section.heads))


def listed(study: Any, read: Any) -> list[Shape]:
    """The shapes that the study names; `read`: text -> {dotted key: value}."""
    found = []
    for text in study.shapes:
        changes = read(text, "config.study.shapes")
        foreign = [key for key in changes if key.split(".")[0] not in ("model", "objective")]
        if foreign:
            raise ConfigError(
                f"{foreign[0]} is no size of a model",
                where="config.study.shapes",
                why=f"got {text!r}",
                do="name keys of config.model (or of config.objective, where it has a network of its own)",
            )
        found.append(Shape(changes))
    return found


def nearest(sizes: list[Size], target: float, taken: tuple[Size, ...] = ()) -> Size | None:
    """The size whose N is nearest to the target, a constant aspect ratio preferred; None where all are taken."""
    free = [size for size in sizes if size not in taken]
    distance = lambda size: abs(math.log(size.parameters / target)) + DEEPER * size.shape.off
    return min(free, key=distance, default=None)


def spread(sizes: list[Size], guess: float, study: Any) -> list[tuple[float, Size]]:
    """[(target N, size), ...]: `study.sizes` of them, evenly in log N around the guess, no shape twice."""
    count, found = study.sizes, []
    for place in range(count):
        share = 2 * place / (count - 1) - 1 if count > 1 else 0.0
        target = guess * study.spread**share
        size = nearest(sizes, target, tuple(size for _, size in found))
        if size is not None:
            found.append((target, size))
    return sorted(found, key=lambda pair: pair[1].parameters)


def refuse_unknown(names: Any, name: str, key: str) -> None:
    """ConfigError for a convention that is not counted for this model."""
    if not names:
        raise ConfigError(
            "this objective does not count its FLOPs",
            where=f"config.study.{key}",
            why="a budget, and what a model's size costs, are told in FLOPs",
            do="--grid or --list: their runs need none",
        )
    if name not in names:
        raise ConfigError(
            f"{name!r} is not counted for this model",
            where=f"config.study.{key}",
            why="known here: " + ", ".join(names),
            do=f"--config.study.{key}={next(iter(names), 'total')}",
        )


def size_of(shape: Shape, count: Any, study: Any) -> Size:
    """`count`: {dotted key: value} -> Counts. ConfigError where the model cannot have the shape."""
    counts = count(shape.changes)
    refuse_unknown(counts.parameters, study.counted, "counted")
    refuse_unknown(counts.flops, study.convention, "convention")
    return Size(shape, float(counts.parameters[study.counted]), float(counts.flops[study.convention]), counts)


def named(size: Size) -> str:
    """For messages: "64 x 3 (482.5k)"."""
    return f"{size.shape.words()} ({quantity(size.parameters)})"


def check_model(model: Any) -> None:
    """ConfigError for a section that no rule can resize."""
    if not towers(model):
        raise ConfigError(
            "the model has no width to change",
            where="config.model.name",
            why=f"it is a {type(model).__name__}: {', '.join(strict.as_dict(model))}",
            do="--config.study.rule=list with config.study.shapes",
        )
