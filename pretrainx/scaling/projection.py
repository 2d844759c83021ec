"""A second way to the same law: variable projection (Golub and Pereyra 1973).

Given alpha and beta the law is linear in E, A and B, which non-negative least squares finds; only two numbers are searched, and
the problem's condition falls from about 1e11 to about ten (Open-Athena/scaling-law-analysis). Residuals other than squares are
reached by reweighting. It shares neither the starts nor the optimiser of the fit that it checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize, nnls

from pretrainx.scaling.form import ALPHA, BETA, DATA_RETURN, POWER, A, B, E
from pretrainx.scaling.optimise import Problem

EXPONENTS = (0.1, 0.3, 0.6, 1.0, 1.5)
ROUNDS = 40
STILL = 1e-6  # of the objective, relative: rounds end


def applies(problem: Problem) -> bool:
    """Whether the law is a sum of three terms of which no scale and no exponent is held."""
    held = problem.held
    plain = problem.form.size <= DATA_RETURN and held.offset[POWER] == 1.0 and POWER not in held.free
    return plain and {E, A, B, ALPHA} <= set(held.free) and (BETA in held.free or bool(held.matrix[BETA].any()))


def cross_check(problem: Problem, best: np.ndarray, objective: float) -> dict[str, Any]:
    """{"projection": what it found, "projection_difference": that minus the fit's, objectives relative}.

    best: float64[F] and objective: of the fit that is checked; they take no part in the search.
    """
    found, reached = _search(problem)
    names = {ALPHA: "alpha", BETA: "beta"}
    theirs = problem.held.full(best)
    mine = {"E": float(np.exp(found[E])), **{name: float(found[i]) for i, name in names.items()}}
    difference = {
        "E": mine["E"] - float(np.exp(theirs[E])),
        **{name: mine[name] - float(theirs[i]) for i, name in names.items()},
    }
    return {
        "projection": {**mine, "objective": reached},
        "projection_difference": {
            **difference,
            "objective": reached / max(objective, 1e-20) - 1 if objective > 1e-20 else 0.0,
        },
    }


def _search(problem: Problem) -> tuple[np.ndarray, float]:
    """Centred coordinates: float64[6], and the objective there."""
    x, y, loss = problem.x[0], problem.y[0], np.exp(problem.measured[0])
    tied = BETA not in problem.held.free
    weight = np.ones_like(loss) if problem.residual.kind == "mse" else loss**-2
    exponents, best, lowest = None, np.zeros(6), np.inf
    for turn in range(ROUNDS):
        root = np.sqrt(weight / weight.max())

        def inner(pair, root=root):
            alpha, beta = (pair[0], pair[0]) if tied else pair
            columns = np.stack([np.ones_like(x), np.exp(-alpha * x), np.exp(-beta * y)], 1)
            if min(alpha, beta) <= 0 or not np.isfinite(columns).all():
                return np.zeros(3), np.inf
            return nnls(columns * root[:, None], loss * root)

        if exponents is None:
            pairs = [
                (one,) if tied else (one, other)
                for one in EXPONENTS
                for other in (EXPONENTS[:1] if tied else EXPONENTS)
            ]
            exponents = np.array(min(pairs, key=lambda pair: inner(pair)[1]))
        size = 0.1 if turn == 0 else 0.01
        corners = np.vstack([exponents, *(exponents * (1 + size * one) for one in np.eye(len(exponents)))])
        settings = {"initial_simplex": corners, "xatol": 1e-6, "fatol": 1e-14, "maxiter": 300}
        exponents = minimize(lambda pair: inner(pair)[1] ** 2, exponents, method="Nelder-Mead", options=settings).x
        scales = np.log(np.maximum(inner(exponents)[0], 1e-300))
        place = np.array([*scales, exponents[0], exponents[-1], 1.0])
        predicted = problem.form.log_loss(place[None], problem.x, problem.y)
        reached = float(np.sum(problem.weight * problem.residual.values(predicted, problem.measured)))
        gained = lowest - reached
        if reached < lowest:
            best, lowest = place, reached
        if problem.residual.kind == "mse" or (turn and gained < STILL * lowest):
            break
        weight = _reweighted(problem, predicted)
    return best, lowest


def _reweighted(problem: Problem, predicted: np.ndarray) -> np.ndarray:
    """float64[R]: weights at which squares of the loss have the slope that the residual has."""
    terms = problem.residual.terms(predicted, problem.measured)
    loss, measured = np.exp(predicted), np.exp(problem.measured)
    away = loss - measured
    close = np.abs(away) < 1e-9 * measured
    weight = np.where(close, terms.above / loss**2, terms.slope / np.where(close, 1.0, away * loss))
    return (problem.weight * weight)[0]
