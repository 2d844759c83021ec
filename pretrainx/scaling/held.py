"""Coordinates that a fit is free to move, and those that follow from them: values that are held, and alpha = beta.

Everything is measured from the middle of the rows, x = ln N - mean ln N: A and alpha then hardly trade against each other, and
a fit does not depend on the units of N and D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import ConfigError, nearest
from pretrainx.scaling.form import ALPHA, BETA, DATA_RETURN, POWER, SCALED_BY, A, B, E, Form

EXPONENTS = (1e-4, 10.0)
RETURNS = (np.log(1e-2), np.log(1e5))


@dataclass(frozen=True)
class Held:
    """theta = offset + matrix @ free, in centred coordinates.

    Attributes:
      offset: float64[K]. matrix: float64[K, F]. free: the coordinate of each of the F that move.
      lowest, highest: float64[F], their bounds. middle: (mean ln N, mean ln D) from which x and y are measured.
    """

    offset: np.ndarray
    matrix: np.ndarray
    free: tuple[int, ...]
    lowest: np.ndarray
    highest: np.ndarray
    middle: tuple[float, float]

    def full(self, free: np.ndarray) -> np.ndarray:
        """Centred coordinates: float64[..., K] of those that move: float64[..., F]."""
        return self.offset + free @ self.matrix.T

    def clip(self, free: np.ndarray) -> np.ndarray:
        return np.clip(free, self.lowest, self.highest)

    def bounds_hit(self, free: np.ndarray) -> tuple[int, ...]:
        """Coordinates that lie on a bound, for float64[F]."""
        near = 1e-6 * (self.highest - self.lowest)
        on = (free <= self.lowest + near) | (free >= self.highest - near)
        return tuple(coordinate for coordinate, hit in zip(self.free, on, strict=True) if hit)

    def uncentred(self, theta: np.ndarray) -> np.ndarray:
        return self._moved(theta, 1.0)

    def centred(self, theta: np.ndarray) -> np.ndarray:
        return self._moved(theta, -1.0)

    def _moved(self, theta, sign: float) -> np.ndarray:
        moved = np.array(theta)
        for (scale, exponent), middle in zip(SCALED_BY.items(), self.middle, strict=True):
            moved[..., scale] += sign * middle * theta[..., exponent]
        return moved


def hold(form: Form, fixed: Mapping[str, float], equal: bool, middle: tuple[float, float], level: float) -> Held:
    """What moves when values of `fixed` stand still and, with `equal`, alpha = beta.

    level: ln of a middle loss, about which the bounds of the terms lie. ConfigError where a value is unknown or not positive,
    where held values contradict alpha = beta, and where nothing is left to move.
    """
    kinds = {name: (coordinate, kind) for name, coordinate, kind in form.values}
    constants = dict(form.constants)
    slopes: dict[int, float] = {}  # of a scale on its exponent
    for name, value in fixed.items():
        if name not in kinds:
            raise ConfigError(
                f"form {form.name!r} has no value {name!r}",
                where="fixed",
                why=nearest(name, kinds),
                do=f"hold one of {', '.join(kinds)}",
            )
        coordinate, kind = kinds[name]
        if value < 0 or (value == 0 and name != "E"):
            raise ConfigError(
                "a value that is held must be positive",
                where=f"fixed: {name}",
                why=f"it is {value:g}",
                do="hold a positive number, or leave it to the fit",
            )
        if kind == "plain":
            constants[coordinate] = value
        elif kind == "log":
            constants[coordinate] = np.log(max(value, 1e-300))
        elif kind == "scale":
            slopes[coordinate] = np.log(value)
        elif "aD" in fixed:
            constants[coordinate] = value / fixed["aD"]
        else:
            raise ConfigError(
                "aN of Kaplan's form is held only together with aD",
                where="fixed",
                why="the surface knows their ratio and aD",
                do="hold both, or neither",
            )
    tied = form.tied
    if equal and BETA in constants and BETA not in {coordinate for coordinate, _ in kinds.values()}:
        constants.setdefault(ALPHA, constants[BETA])  # Kaplan's: the ratio of the exponents is 1
        one = constants[ALPHA] == constants[BETA]
    else:
        tied = tied or equal
        given = {constants[exponent] for exponent in (ALPHA, BETA) if exponent in constants}
        one = not (tied and len(given) > 1)
        if tied and given:
            constants[ALPHA] = constants[BETA] = given.pop()
    if not one:
        raise ConfigError(
            "held exponents differ although they are to be equal",
            where="equal, fixed",
            why="alpha = beta is asked for",
            do="hold one of them, or leave out `equal`",
        )
    return _build(form, constants, slopes, tied, middle, level)


def _build(form, constants, slopes, tied, middle, level) -> Held:
    free = [i for i in range(form.size) if i not in constants and i not in slopes and not (tied and i == BETA)]
    if not free:
        raise ConfigError(
            "nothing is left to fit", where="fixed", why="every value is held", do="leave one of them to the fit"
        )
    offset, matrix = np.zeros(form.size), np.zeros((form.size, len(free)))
    for column, coordinate in enumerate(free):
        matrix[coordinate, column] = 1.0
    for coordinate, number in constants.items():
        offset[coordinate] = number
    if tied:
        matrix[BETA], offset[BETA] = matrix[ALPHA], offset[ALPHA]
    for (scale, exponent), centre in zip(SCALED_BY.items(), middle, strict=True):
        # A held scale is held at N = 1, not at the middle: a_centred = a - alpha * middle.
        slope = (slopes.get(scale, 0.0) - centre) if scale in constants or scale in slopes else 0.0
        matrix[scale] += slope * matrix[exponent]
        offset[scale] += slope * offset[exponent]
    reach = 30.0 if dict(form.constants).get(POWER) == 1.0 else 1000.0
    limits = {i: (level - reach, level + reach) for i in (E, A, B)}
    pairs = [limits.get(i, RETURNS if i >= DATA_RETURN else EXPONENTS) for i in free]
    lowest, highest = np.array(pairs, np.float64).T
    return Held(offset, matrix, tuple(free), lowest, highest, middle)
