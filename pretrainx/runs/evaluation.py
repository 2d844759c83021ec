"""What is evaluated during a run, whatever its data are: the objective's own loss on the held-out split."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pretrainx.data.loader import place
from pretrainx.evals.held_out import HeldOut
from pretrainx.runs.data import Prepared
from pretrainx.runs.parts import Parts
from pretrainx.runs.recipe import Recipe
from pretrainx.training.state import TrainState


class Evaluation(ABC):
    """Called with a state, gives {"held_out/loss": ...} and what a kind of data adds to it.

    Averaged parameters are evaluated where the run keeps them. The parts of a mixture are evaluated together, and each
    again by itself ("held_out/<part>/loss"): a sum cannot be taken apart by objectives that draw their targets.
    """

    def __init__(self, recipe: Recipe, parts: Parts, data: Prepared, workdir: Path):
        self.recipe, self.parts, self.data, self.workdir = recipe, parts, data, workdir
        self.latest_samples = ""  # text to show when the run is over

    # What a kind of data replaces.

    @property
    @abstractmethod
    def held_out_rows(self) -> dict[str, Any]:
        """{part: its held-out rows, which have `batches`}"""

    def bytes_of_text(self, *names: str) -> int:
        """How many bytes the held-out targets of these parts stand for; 0 where they are not bytes."""
        return 0

    def beyond(self, params, extras, step: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        """What is evaluated beside the held-out loss; None where `stop()` became true. It may write to DIR/samples."""
        return {}

    # What all share.

    @functools.cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """{"held_out": all parts, "held_out/<part>": one of several}."""
        parts = {name: self.batches(rows) for name, rows in self.held_out_rows.items()}
        together = [batch for batches in parts.values() for batch in batches]
        found = {"held_out": (together, tuple(parts))}
        if len(parts) > 1:
            found |= {f"held_out/{name}": (batches, (name,)) for name, batches in parts.items()}
        make = lambda batches, names: HeldOut(
            self.parts.objective, self.parts.rules, self.recipe.seed, batches, self.bytes_of_text(*names)
        )
        return {name: make(*arguments) for name, arguments in found.items()}

    def batches(self, rows: Any) -> list[dict]:
        """The batches of held-out rows on the devices."""
        size, rules = self.recipe.evals.batch_size or self.recipe.train.batch_size, self.parts.rules
        shardings = lambda batch: jax.tree.map(lambda leaf: rules.rows(leaf.shape), batch)
        return [place(batch, shardings(batch)) for batch in rows.batches(size)]

    def __call__(self, state: TrainState, stop: Callable[[], bool]) -> dict[str, float]:
        """{} where `stop()` became true on the way."""
        params, step = state.full_params(averaged=True), int(state.step)
        values = {}
        for split, evaluator in self.held_out.items():
            found = evaluator(params, state.extras, step, stop)
            if not found:
                return {}
            values |= {f"{split}/{name}": value for name, value in found.items()}
        further = self.beyond(params, state.extras, step, stop)
        return {} if further is None else values | further  # half a record would pass for all of it: none is owed then
