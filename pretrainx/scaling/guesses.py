"""A budget's best N before anything was trained: from a ratio of tokens to parameters, a published law, or an earlier fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from pretrainx.core.errors import ConfigError, nearest
from pretrainx.scaling import fit_file
from pretrainx.scaling.fits import Cost
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.presets import PRESETS
from pretrainx.scaling.ratio import at_ratio
from pretrainx.scaling.shapes import Size
from pretrainx.scaling.study import StudyConfig

Guess = Callable[[float, Cost], float]


def guess_of(study: StudyConfig) -> tuple[Guess, tuple[str, ...]]:
    """((budget, cost) -> N, what is to be known of it). ConfigError where config.study.guess names nothing that is there."""
    name = study.guess
    if not name:
        return (lambda budget, cost: at_ratio(budget, study.tokens_per_parameter, cost)), ()
    if name in PRESETS:
        law, notes = PRESETS[name], (f"guess: {name}, a law of text at far larger budgets. {PRESETS[name].told()}",)
    elif Path(name).is_file():
        law = fit_file.load(name)
        counted = f"N is {law.counted}, C {law.convention}, D counts {law.unit}s"
        notes = (f"guess: {name}, in which {counted}: it fits a study that counts the same",)
    else:
        raise ConfigError(
            f"{name!r} is neither a published law nor a fit",
            where="config.study.guess",
            why=nearest(name, PRESETS),
            do="name a law, the fit.json of a study, or leave it out for D = tokens_per_parameter x N",
        )
    return (lambda budget, cost: float(FORMS[law.form].optimum(law.values, budget, cost)[0])), notes


def cost_of(sizes: list[Size]) -> Cost:
    """FLOPs per unit over N, as sizes (shapes.Size) have them; of several with one N the cheapest."""
    points: dict[float, float] = {}
    for size in sizes:
        points[size.parameters] = min(size.flops, points.get(size.parameters, math.inf))
    return Cost(points=tuple(sorted(points.items())))
