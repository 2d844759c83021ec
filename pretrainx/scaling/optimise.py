"""Minimising a sum of residuals over many starts or many resampled tables at once.

Newton's method on the exact Hessian, damped in the metric of an upper bound: as damping grows a step turns into one of
iteratively reweighted least squares, which cannot overshoot by much. Saddles repel, since eigenvalues enter by their size.
Everything is arrays over S problems, so that a thousand replicates cost a few seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from pretrainx.scaling.form import Form
from pretrainx.scaling.held import Held
from pretrainx.scaling.residuals import Residual

CHUNK = 60_000  # problems times rows that are in hand together: they fit a cache
GAIN, STILL = (
    1e-10,
    20,
)  # a problem ends after so many steps in a row that each gained less than this share of its objective
SHORT, LEADERS = 60, 10  # steps of every start, and how many of them go on
EXACT = 1e-22  # an objective of this size is none: the law goes through every row


@dataclass(frozen=True)
class Problem:
    """S problems over R rows.

    Attributes:
      x, y, u: ln N, ln D and ln U from the middle of the rows; u is None where nothing is repeated. measured: log losses.
      weight: how often a row counts. All float64[S, R], or float64[1, R] of what the problems share.
    """

    form: Form
    held: Held
    residual: Residual
    x: np.ndarray
    y: np.ndarray
    u: np.ndarray | None
    measured: np.ndarray
    weight: np.ndarray

    def of(self, index) -> Problem:
        """The problems of an index array."""
        columns = {name: getattr(self, name) for name in ("x", "y", "u", "measured", "weight")}
        return replace(self, **{name: one[index] for name, one in columns.items() if one is not None and len(one) > 1})

    def objective(self, free: np.ndarray) -> np.ndarray:
        """float64[S] of float64[S, F]: sums of weighted terms."""
        predicted = self.form.log_loss(self.held.full(free), self.x, self.y, self.u)
        return np.sum(self.weight * self.residual.values(predicted, self.measured), -1)

    def derivatives(self, free: np.ndarray):
        """Objective: [S], gradient: [S, F], Hessian: [S, F, F], and the Hessian of the bound from above: [S, F, F]."""
        theta = self.held.full(free)
        predicted, by = self.form.gradient(theta, self.x, self.y, self.u)
        terms = self.residual.terms(predicted, self.measured)
        slope = self.weight * terms.slope
        gradient = np.matmul(by, slope[..., None])[..., 0]
        across = np.swapaxes(by, 1, 2)
        hessian = np.matmul(by * (self.weight * terms.bend)[:, None], across)
        hessian += self.form.curvature(theta, by, slope, self.x, self.y, self.u)
        above = np.matmul(by * (self.weight * terms.above)[:, None], across)
        matrix = self.held.matrix
        return (
            np.sum(self.weight * terms.value, -1),
            gradient @ matrix,
            matrix.T @ hessian @ matrix,
            matrix.T @ above @ matrix,
        )


@dataclass(frozen=True)
class Found:
    """free: float64[S, F]. objective: float64[S]. settled: bool[S], whether it ended before the limit of steps."""

    free: np.ndarray
    objective: np.ndarray
    settled: np.ndarray


def minimise(problem: Problem, free: np.ndarray, tolerance: float = 1e-16, iterations: int = 300) -> Found:
    """A minimum near each of the starts `free`: float64[S, F].

    tolerance: a problem ends when a step of least squares promises a gain below this share of its objective.
    """
    size = max(1, CHUNK // problem.x.shape[-1])
    parts = [
        _newton(
            problem.of(np.arange(first, min(first + size, len(free)))),
            free[first : first + size],
            tolerance,
            iterations,
        )
        for first in range(0, len(free), size)
    ]
    return Found(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("free", "objective", "settled"))
    )


def from_many(problem: Problem, free: np.ndarray) -> Found:
    """Minima near many starts: all go a short way, the leaders to the end, so that crawling in a valley costs little."""
    found = minimise(problem, free, iterations=SHORT)
    leaders = np.argsort(found.objective, kind="stable")[:LEADERS]
    last = minimise(problem, found.free[leaders])
    for name in ("free", "objective", "settled"):
        getattr(found, name)[leaders] = getattr(last, name)
    return found


def _newton(problem: Problem, free: np.ndarray, tolerance: float, iterations: int) -> Found:
    free = problem.held.clip(free)
    objective = problem.objective(free)
    settled = np.zeros(len(free), bool)
    still = np.zeros(len(free), int)  # steps in a row that gained next to nothing
    damping = np.full(len(free), 1e-2)
    active = np.arange(len(free))
    for _ in range(iterations):
        part = problem.of(active)
        _, gradient, hessian, above = part.derivatives(free[active])
        step, promised = _steps(problem.held, free[active], gradient, hessian, above, damping[active])
        tried = problem.held.clip(free[active] + step)
        reached = part.objective(tried)
        better = reached < objective[active]
        still[active] = np.where(objective[active] - reached > GAIN * objective[active], 0, still[active] + 1)
        ends = (promised <= tolerance * objective[active] + EXACT) | (still[active] >= STILL)
        free[active] = np.where(better[:, None], tried, free[active])
        objective[active] = np.where(better, reached, objective[active])
        damping[active] = np.where(better, np.maximum(damping[active] / 6, 1e-12), damping[active] * 5)
        settled[active] = ends
        active = active[~ends]
        if not len(active):
            break
    return Found(free, objective, settled)


def _steps(held: Held, free, gradient, hessian, above, damping):
    """Damped steps: [S, F], and half the squared gradient in the metric of `above`: [S], what a step of it promises."""
    out = ((free <= held.lowest) & (gradient > 0)) | ((free >= held.highest) & (gradient < 0))
    gradient = np.where(out, 0.0, gradient)
    blocked = out[:, :, None] | out[:, None, :]
    identity = np.eye(free.shape[1])
    hessian = np.where(blocked, identity, hessian)
    above = np.where(blocked, identity, above)
    size, turn = np.linalg.eigh(above)
    size = np.maximum(size, 1e-13 * np.maximum(size[:, -1:], 1e-300))
    metric = turn / np.sqrt(size)[:, None, :]
    across = np.swapaxes(metric, 1, 2)
    inner = np.matmul(across, gradient[..., None])
    bend, turn = np.linalg.eigh(across @ hessian @ metric)
    along = np.matmul(np.swapaxes(turn, 1, 2), inner)[..., 0]
    along = -along / (np.abs(bend) + damping[:, None])
    return np.matmul(metric @ turn, along[..., None])[..., 0], 0.5 * np.sum(inner[..., 0] ** 2, -1)


def polish(problem: Problem, free: np.ndarray, rounds: int = 3) -> tuple[np.ndarray, float]:
    """float64[F] and its objective after BFGS and L-BFGS-B in turn with tight tolerances; never worse than what came in.

    The objective is scaled to 1, so that the tolerances mean the same for every residual.
    """
    best, lowest = np.array(free), float(problem.objective(free[None])[0])
    if lowest <= 0:
        return best, lowest
    scale = lowest

    def scaled(one):
        theta = problem.held.full(one[None])
        predicted, by = problem.form.gradient(theta, problem.x, problem.y, problem.u)
        terms = problem.residual.terms(predicted, problem.measured)
        gradient = np.matmul(by, (problem.weight * terms.slope)[..., None])[..., 0] @ problem.held.matrix
        return float(np.sum(problem.weight * terms.value)) / scale, gradient[0] / scale

    box = list(zip(problem.held.lowest, problem.held.highest, strict=True))
    for _ in range(rounds):
        before = lowest
        for method, settings in (
            ("BFGS", {"gtol": 1e-12}),
            ("L-BFGS-B", {"ftol": 1e-18, "gtol": 1e-14, "maxcor": 30, "maxiter": 2000}),
        ):
            with np.errstate(all="ignore"):
                bounds = {"bounds": box} if method == "L-BFGS-B" else {}
                reached = optimize.minimize(scaled, best, jac=True, method=method, options=settings, **bounds).x
            inside = problem.held.clip(reached)
            value = float(problem.objective(inside[None])[0])
            if value < lowest:
                best, lowest = inside, value
        if before - lowest <= 1e-14 * scale:
            break
    return best, lowest
