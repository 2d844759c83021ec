"""What a run of any objective costs and how large it is, by every convention, from its configuration alone.

`pretrainx train` states its MFU by the same figures, and `pretrainx plan` its FLOPs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.objective import Objective
from pretrainx.runs.data import About
from pretrainx.runs.parts import UNITS, build, unit_of, units_per_row
from pretrainx.runs.recipe import Recipe
from pretrainx.training import state as states

MODEL = "model"


@dataclass(frozen=True)
class Counts:
    """Attributes:
    parameters: {convention: how many}, the padding of vocabulary tables not counted; always "total", and as far as they mean
      something "active", "with_head", "without_vocabulary" and "hidden" (models/sizes.py says what each is). Of adapted models
      "total" and "trained".
    flops: {convention: training FLOPs of a unit}, forward and backward; "model" is the model's own count, of matrix products
      that are used, the others are those of models/sizes_conventions.py that mean something for the model. Empty where the
      objective does not count, as adapted models don't.
    unit: what D counts: "token" of a corpus, "picture" (with its caption, where it has one), or "example" of labelled text.
    units_per_row: how many of them a row of the batch brings.
    """

    parameters: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    unit: str = "token"
    units_per_row: float = 1.0


def count(recipe: Recipe, about: About) -> Counts:
    """Of a recipe for data that say `about` themselves; `runs.assumed.about` says it where there are none.

    Nothing is traced or computed, except of objectives that do not count themselves (adapters, visual tokenizers, labelled
    text, mixtures of different models): those are asked for the shapes of what they would initialise.
    """
    objective, unit = build(recipe, about), unit_of(about)
    units = units_per_row(objective, unit)
    counted = objective.parameter_counts()
    parameters = _of_layout(objective, recipe, about) if counted is None else counted.named()
    own = objective.flops_per_row()
    per_row = {} if own is None else {MODEL: own} | objective.flops_by_convention()
    return Counts(parameters, {name: flops / units for name, flops in per_row.items()}, UNITS[unit], units)


def _of_layout(objective: Objective, recipe: Recipe, about: About) -> dict[str, int]:
    words = about if isinstance(about, Vocabulary) else getattr(about, "vocabulary", None)
    found = states.layout(objective, recipe.train.batch_size)
    trained = tuple((path, names) for path, names in found.params_axes if objective.trains(path))
    some = dataclasses.replace(found, params_axes=trained)
    return {name: each.parameters(words and words.predicted) for name, each in (("total", found), ("trained", some))}
