"""E + A x^-g through points, all of them positive: variable projection, so that only g is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import fdtri

EXPONENTS = np.geomspace(1e-3, 5.0, 600)
LEVEL = 0.9


@dataclass(frozen=True)
class Saturating:
    """L = E + A x^-g. Attributes:
    objective: sum of weight * (relative residual)^2.
    exponents, floors: (least, most) g and E of all curves that fit nearly as well: the profile of g at level 0.9, which three
      points do not have (nan).
    notes: what a reader has to know, such as that the points determine the curve exactly.
    """

    E: float
    A: float
    g: float
    objective: float
    exponents: tuple[float, float]
    floors: tuple[float, float]
    notes: tuple[str, ...]


def solve(log_x, loss, weights=None, fixed: Mapping[str, float] = {}) -> Saturating:
    """The curve of least weighted squared relative error, with E >= 0, A >= 0, g > 0.

    Args:
      log_x: float64[R], ln(C / C0); a C0 near the data keeps the problem well-conditioned.
      loss: float64[R]. weights: float64[R], of each point. fixed: values that are held, of E and g.
    Given g, E and A are two-variable non-negative least squares, which have a closed form; g is searched on a grid and then
    refined within it. (Golub and Pereyra 1973.)
    """
    log_x, loss = np.asarray(log_x, np.float64), np.asarray(loss, np.float64)
    weight = (np.ones_like(loss) if weights is None else np.asarray(weights, np.float64) / np.mean(weights)) / loss**2
    held = fixed.get("E")

    def project(exponents):
        """E, A and the objective, each float64[G]."""
        power = np.exp(-np.multiply.outer(np.asarray(exponents, np.float64), log_x))
        return _projected(power, loss, weight, held)

    if "g" in fixed:
        g = fixed["g"]
    else:
        best = int(np.argmin(project(EXPONENTS)[2]))
        ends = np.log(EXPONENTS[[max(best - 1, 0), min(best + 1, len(EXPONENTS) - 1)]])
        refined = minimize_scalar(
            lambda log_g: project([np.exp(log_g)])[2][0], bounds=ends, method="bounded", options={"xatol": 1e-13}
        )
        g = float(np.exp(refined.x))
    E, A, objective = (float(part[0]) for part in project([g]))
    freedom = len(loss) - 1 - (held is None) - ("g" not in fixed)
    exponents, floors = (g, g), (E, E)
    if "g" not in fixed:
        exponents, floors = _profile(project, objective, freedom)
    return Saturating(E, A, g, objective, exponents, floors, _notes(E, g, freedom, exponents, floors, loss, fixed))


def _projected(power, loss, weight, held):
    """E, A, objective (float64[G]) of each row of `power`, float64[G, R]."""
    one, first, second = weight.sum(), power @ weight, power**2 @ weight
    level, product = weight @ loss, power @ (weight * loss)
    if held is not None:
        E = np.full(len(power), float(held))
        A = np.maximum((product - held * first) / second, 0)
    else:
        mean = first / one
        spread = np.maximum(second - mean * first, np.finfo(np.float64).tiny)
        A = np.maximum((product - mean * level) / spread, 0)
        E = (level - A * first) / one
        below = E < 0
        E, A = np.where(below, 0.0, E), np.where(below, product / second, A)
    return E, A, ((E[:, None] + A[:, None] * power - loss) ** 2) @ weight


def _profile(project, objective, freedom):
    """(least, most) g and E whose objective an F test at LEVEL does not tell from the best."""
    if freedom < 1:
        return (np.nan, np.nan), (np.nan, np.nan)
    E, _, profile = project(EXPONENTS)
    near = profile <= max(objective, 1e-28) * (1 + fdtri(1, freedom, LEVEL) / freedom)
    if not near.any():  # narrower than the grid
        near = profile == profile.min()
    return tuple(float(f(EXPONENTS[near])) for f in (np.min, np.max)), tuple(
        float(f(E[near])) for f in (np.min, np.max)
    )


def _notes(E, g, freedom, exponents, floors, loss, fixed):
    notes = []
    if freedom < 1:
        notes.append(
            f"{len(loss)} points determine L(C) exactly, and nothing says how wrong it is; "
            "hold E or g to leave one over (--fixed=E=1.7)"
        )
    if "E" not in fixed and E == 0:
        notes.append("E ended at its bound 0: the points do not show where the loss levels off")
    if "g" not in fixed and not EXPONENTS[1] < g < EXPONENTS[-2]:
        notes.append(f"g ended at its bound {g:.4g}")
    elif floors[1] - floors[0] > 0.25 * loss.min():
        notes.append(
            f"L(C) is ill-conditioned: E from {floors[0]:.3g} to {floors[1]:.3g} with g from {exponents[0]:.3g} to "
            f"{exponents[1]:.3g} fit nearly as well; compare predictions near the data, not E or g"
        )
    return tuple(notes)
