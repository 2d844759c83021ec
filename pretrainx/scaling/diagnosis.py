"""How a fit was found, in numbers: agreement of starts, spread, gradient, condition, bounds, and what they warn of."""

from __future__ import annotations

from typing import Any

import numpy as np

from pretrainx.scaling.form import ALPHA, BETA, A, B, E
from pretrainx.scaling.optimise import Found, Problem
from pretrainx.scaling.outliers import TO_NORMAL

AGREES, NEAR = 1e-4, 1e-3  # of the objective, relative
VANISHED = 1e-4  # of the loss, at every row: the term plays no part
LOOSE = 0.05  # of E and the exponents: near-best starts that differ by more show a flat valley
ILL = 1e8  # condition of the Hessian in centred coordinates, where a well-designed table has 1e2 to 1e5
COLLINEAR = 0.98  # |correlation| of ln N and ln D


def of(problem: Problem, found: Found, best: np.ndarray, objective: float) -> dict[str, Any]:
    """For the best place, float64[F], and the places that the starts reached.

    objective: the sum of residual terms. agreement: the share of starts whose objective is within 1e-4 of it, relative; spread:
    least and most of each value over those within 1e-3. gradient: its norm over the objective. condition: of the Hessian in
    logs of scales and plain exponents, as published fits have them; centred_condition: the same measured from the middle of
    the rows, where it is small for a table that determines the law. scatter: of the rows about the law, see `scatter`.
    """
    held = problem.held
    tiny = 1e-20  # a law without noise has the objective 0
    reached = found.objective <= objective * (1 + AGREES) + tiny
    near = found.free[found.objective <= objective * (1 + NEAR) + tiny]
    near = np.concatenate([near, best[None]])
    values = problem.form.from_coordinates(held.uncentred(held.full(near)))
    _, gradient, hessian, above = (one[0] for one in problem.derivatives(best[None]))
    centred = _condition(hessian, above)
    turned = _uncentring(held)
    bounds = tuple(name for name, coordinate, _ in problem.form.values if coordinate in held.bounds_hit(best))
    notes = [*_vanished(problem, best), *_geometry(problem)]
    loose = [
        name
        for i, (name, coordinate, _) in enumerate(problem.form.values)
        if coordinate in (E, ALPHA, BETA) and np.ptp(values[:, i]) > LOOSE * abs(values[-1, i])
    ]
    if loose:
        notes.append(f"a flat valley: starts that fit within {NEAR:g} of the best differ in {', '.join(loose)}")
    if centred > ILL:
        notes.append(
            f"the table does not determine the values (condition {centred:.1e}): trust predictions near the data only"
        )
    if bounds:
        notes.append(f"at its bound: {', '.join(bounds)}")
    return {
        "objective": objective,
        "scatter": {"loss": scatter(problem, best)},
        "starts": len(found.objective),
        "agreement": float(np.mean(reached)),
        "spread": {
            name: (float(column.min()), float(column.max()))
            for name, column in zip(problem.form.names, values.T, strict=True)
        },
        "gradient": float(np.linalg.norm(gradient) / max(objective, tiny)),
        "condition": _condition(turned.T @ hessian @ turned, turned.T @ above @ turned),
        "centred_condition": centred,
        "bounds_hit": bounds,
        "notes": tuple(notes),
    }


def scatter(problem: Problem, best: np.ndarray) -> float:
    """The standard deviation of log loss about the law: of a normal with the median absolute deviation of the rows, scaled by
    the degrees of freedom. Few rows that are far off do not move it."""
    measured = problem.measured[0]
    away = measured - problem.form.gradient(problem.held.full(best)[None], problem.x, problem.y, problem.u)[0][0]
    left = max(len(away) - len(problem.held.free), 1)
    return float(TO_NORMAL * np.median(np.abs(away - np.median(away))) * np.sqrt(len(away) / left))


def _condition(hessian: np.ndarray, above: np.ndarray) -> float:
    """Largest over smallest eigenvalue. The Hessian of Huber's rule is flat where few rows lie within delta: then `above` is
    taken, the curvature of reweighted least squares."""
    size = np.linalg.eigvalsh(hessian)
    if size[0] <= 1e-14 * size[-1]:
        size = np.linalg.eigvalsh(above)
    return float(size[-1] / size[0]) if size[0] > 0 else np.inf


def _uncentring(held) -> np.ndarray:
    """float64[F, F]: centred coordinates that move, by those as published."""
    places = {coordinate: column for column, coordinate in enumerate(held.free)}
    turned = np.eye(len(held.free))
    for scale, exponent, middle in ((A, ALPHA, held.middle[0]), (B, BETA, held.middle[1])):
        if scale in places:
            turned[places[scale]] -= middle * held.matrix[exponent]
    return turned


def _vanished(problem: Problem, best: np.ndarray) -> list[str]:
    """Terms that play no part although they are free to."""
    theta = problem.held.full(best)[None]
    predicted, by = problem.form.gradient(theta, problem.x, problem.y, problem.u)
    names = {coordinate: name for name, coordinate, _ in problem.form.values}
    gone = [names[i] for i in (E, A, B) if i in problem.held.free and np.max(by[0, i]) < VANISHED]
    return [f"the term of {name} vanishes: the table does not show it" for name in gone]


def _geometry(problem: Problem) -> list[str]:
    x, y = problem.x[0], problem.y[0]
    correlation = abs(float(np.corrcoef(x, y)[0, 1]))
    if correlation > COLLINEAR and len(problem.held.free) > 3:
        return [
            f"N and D rise together (correlation {correlation:.3f} of their logarithms): their exponents are confounded"
        ]
    return []
