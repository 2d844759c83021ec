"""What the pictures of a data set are, agreed between data, models and objectives as Vocabulary is for text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Images:
    """The form of the stored pictures, and the statistics that they are normalised with.

    Attributes:
      size: S; pictures are uint8[S, S, C].
      channels: C, 1 (grey) or 3 (red, green, blue).
      classes: the names of the labels 0, 1, ...; () where there are none.
      mean, std: of the training pixels divided by 255, per channel.
    """

    size: int
    channels: int = 3
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        if not self.channels == len(self.mean) == len(self.std):
            raise ValueError(f"{self.channels} channels, but means {self.mean} and deviations {self.std}")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, for data.json and for checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Images:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
