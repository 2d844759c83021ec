"""The data that all runs of a study share: what they say of themselves, and how many different units there are to read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainx.core.readable import quantity
from pretrainx.runs import assumed
from pretrainx.runs.data import About, prepare
from pretrainx.runs.recipe import Recipe

# Of repeated tokens: how many times over they are worth something (Muennighoff et al. 2023, r_D of the fit that was published).
REPEATS = 15.387756


@dataclass(frozen=True)
class Corpus:
    """Attributes:
    about: what models and objectives are built for. assumed: what of it is a guess, a line each.
    units: tokens or examples of the training split; None where the data are not prepared.
    """

    about: About
    assumed: tuple[str, ...] = ()
    units: float | None = None

    def unique(self, tokens: float) -> float | None:
        """U of a run that reads D units; None where it is not known."""
        return None if self.units is None else min(tokens, self.units)

    def epochs(self, tokens: float) -> float | None:
        return None if self.units is None else tokens / self.units


def opened(recipe: Recipe, directory: Path, unit: str, make: bool, say: Callable[[str], None]) -> Corpus:
    """The prepared data in config.data.cache; with `make` they are prepared where they are not. Else what the configuration
    alone tells. `directory` is where they are or will be; `unit` is what D counts."""
    if not (make or directory.is_dir()):
        about, _, notes = assumed.about(recipe)
        return Corpus(about, notes)
    data: Any = prepare(recipe.data, directory, say)
    facts = data.meta["splits"]["train"]
    names = ("tokens",) if unit == "token" else ("pictures", "examples")
    return Corpus(data.about, (), float(next(facts[name] for name in names if name in facts)))


def worth(tokens: float, unique: float) -> float:
    """The D' of new units that D units of U different ones are worth (Muennighoff et al. 2023, arXiv:2305.16264, equation 5):
    D' = U + U r (1 - exp(-R / r)), R = D / U - 1."""
    new = min(tokens, unique)
    return new + new * REPEATS * (1 - math.exp(-(tokens / new - 1) / REPEATS))


def repetition(tokens: float, unique: float, unit: str) -> str:
    """What is said of a run that reads its corpus more than once."""
    return (
        f"{quantity(tokens)} {unit}s of a corpus of {quantity(unique)} are {tokens / unique:.1f} epochs, worth "
        f"{worth(tokens, unique) / tokens:.0%} of as many new ones (Muennighoff et al. 2023)"
    )
