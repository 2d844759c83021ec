"""Schedules of an objective that last as long as the run, or a share of it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pretrainx.core.errors import ConfigError


class OverSteps:
    """A config with lengths of schedules, in steps, that are 0 until the run's length is known.

    Attributes:
      lasting: {the field of such a length: its share of the run}, as pairs.
    """

    lasting: ClassVar[tuple[tuple[str, float], ...]] = (("momentum_steps", 1.0),)

    def over(self, steps: int):
        """This config for a run of so many steps; lengths that are given stay."""
        found = {name: getattr(self, name) or max(1, round(share * steps)) for name, share in self.lasting}
        return replace(self, **found)

    def length(self, name: str) -> int:
        """The length of this name; ConfigError where nobody gave it."""
        if not getattr(self, name):
            raise ConfigError(
                "a schedule of the objective goes by the run's length, which is not known here",
                where=f"config.objective.{name}",
                why="it is 0",
                do=f"set it to {dict(self.lasting)[name]:g} x config.train.steps",
            )
        return getattr(self, name)
