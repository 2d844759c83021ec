"""Standard errors by the delta method: of the values of a fit, and of whatever is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtr

from pretrainx.scaling.fits import Fit
from pretrainx.scaling.form import ALPHA, BETA, POWER
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.table import Table

STEP = 1e-4  # of a value, relative, in central differences: an optimum along measured costs is known to 1e-7 only
EXPONENTS = (ALPHA, BETA, POWER)  # coordinates of which `equal` ties the two that a form has values for
BOUND = 1e-8  # a value that is smaller lies on its bound zero, and is held there


def covariance(fit: Fit, table: Table) -> np.ndarray | None:
    """float64[P, P] of the values, in their order; zero for those that are held. None where the rows are too few for it.

    A parametric fit: each run is left out in turn, by one Newton step from the full fit (the linearised jackknife by run, CR3
    in Bell and McCaffrey 2002), so that rows of one run need not be independent. The Hessian is the Gauss-Newton one times
    the mean curvature of the residual: 1 for squares; for Huber's rule the share of residuals within delta, smoothed by a
    normal kernel of Silverman's width, since with delta 1e-3 few rows, or none, lie within.
    A frontier: of the three regressions through its points, whose residuals may be correlated.
    """
    if fit.form == "frontier":
        return _of_frontier(fit)
    directions = free(fit)
    residual, influence, curvature = _scores(fit, table)
    slopes = -_jacobian(lambda values: _residual(fit, table, values), fit.values) @ directions
    hessian = curvature * slopes.T @ slopes
    runs = np.unique(np.array(table.runs), return_inverse=True)[1]
    count = runs.max() + 1
    if count <= directions.shape[1]:
        return None
    moves = []
    for run in range(count):
        mine = runs == run
        without = hessian - curvature * slopes[mine].T @ slopes[mine]
        moves.append(directions @ np.linalg.lstsq(without, slopes[mine].T @ influence[mine], rcond=1e-14)[0])
    moves = np.array(moves)
    return (count - 1) / count * moves.T @ moves


def errors(fit: Fit, function: Callable[[Mapping[str, float]], np.ndarray]) -> np.ndarray | None:
    """float64[K]: standard errors of float64[K] that `function` computes from the values; None without a covariance."""
    if fit.covariance is None:
        return None
    slopes = _jacobian(lambda values: np.atleast_1d(function(values)), fit.values)
    return np.sqrt(np.maximum(np.einsum("kp,pq,kq->k", slopes, fit.covariance, slopes), 0.0))


def free(fit: Fit) -> np.ndarray:
    """float64[P, F]: the directions in which the values could move; one for each that is neither held nor on its bound, one for
    two that are tied."""
    names, form = list(fit.values), FORMS[fit.form]
    held = {"C0", *(name for name, _ in fit.options.get("fixed", ())), *fit.diagnostics.get("bounds_hit", ())}
    exponents = [] if fit.form == "frontier" else [name for name, place, _ in form.values if place in EXPONENTS]
    tied = bool(fit.options.get("equal")) and len(exponents) == 2
    if tied and held & set(exponents):
        held |= set(exponents)
    moving = [name for name in names if name not in held and abs(fit.values[name]) > BOUND]
    directions = np.array([[float(name == other) for other in moving] for name in names])
    if tied and not held & set(exponents):
        first, second = (moving.index(name) for name in exponents)
        directions[:, first] += directions[:, second]
        directions = np.delete(directions, second, axis=1)
    return directions * np.maximum(np.abs(list(fit.values.values())), BOUND)[:, None]


def _residual(fit: Fit, table: Table, values: Mapping[str, float]) -> np.ndarray:
    """float64[R]: measured minus predicted, of log loss, or of loss where its squares are summed."""
    predicted = FORMS[fit.form].loss(values, table.parameters, table.tokens, table.unique)
    return table.loss - predicted if fit.options["residual"] == "mse" else np.log(table.loss / predicted)


def _scores(fit: Fit, table: Table) -> tuple[np.ndarray, np.ndarray, float]:
    """Residuals, slopes of their penalty (float64[R] both) and the penalty's mean curvature."""
    residual = _residual(fit, table, fit.values)
    kind, limit = fit.options["residual"], fit.options["delta"]
    if kind == "huber":
        return residual, np.clip(residual, -limit, limit), share_within(residual, limit)
    if kind == "asymmetric":
        weight = np.where(residual < 0, fit.options["penalty"], 1.0)
        return residual, weight * residual, float(weight.mean())
    return residual, residual, 1.0


def share_within(residual: np.ndarray, limit: float) -> float:
    """The probability that |residual| < limit, by a normal kernel estimate of its density."""
    quartiles = np.subtract(*np.percentile(residual, [75, 25])) / 1.34
    width = 0.9 * min(residual.std() or limit, quartiles or limit) * len(residual) ** -0.2
    return float(np.mean(ndtr((limit - residual) / width) - ndtr((-limit - residual) / width)))


def _of_frontier(fit: Fit) -> np.ndarray | None:
    points = [one for one in fit.diagnostics.get("minima", fit.diagnostics.get("envelope")) if one.get("used", True)]
    flops, *reached = (np.array([one[name] for one in points]) for name in ("flops", "parameters", "tokens", "loss"))
    law = lambda values: np.log(np.array(FORMS["frontier"].optimum(values, flops, fit.cost)))
    weight = np.ones((3, len(flops)))
    if fit.options["weights"] == "error":
        weight = 1 / np.array([one["errors"] for one in points]).T
    residual = weight * (np.log(np.array(reached)) - law(fit.values))
    directions = free(fit)
    if len(flops) <= 3:  # they go exactly through L*(C)
        return None
    freedom = len(flops) - directions.shape[1] / len(residual)  # a third of the values belong to each regression
    slopes = _jacobian(lambda values: law(values).ravel(), fit.values) @ directions
    slopes = weight[..., None] * slopes.reshape(len(residual), len(flops), -1)
    bread = np.linalg.pinv(np.einsum("qmf,qmg->fg", slopes, slopes), rcond=1e-14, hermitian=True)
    meat = np.einsum("qmf,qr,rmg->fg", slopes, residual @ residual.T / freedom, slopes)
    return directions @ bread @ meat @ bread @ directions.T


def _jacobian(function: Callable[[Mapping[str, float]], np.ndarray], values: Mapping[str, float]) -> np.ndarray:
    """float64[K, P] by central differences; a value of zero is not moved."""
    columns = []
    for name, value in values.items():
        step = STEP * abs(value)
        if step <= STEP * BOUND:
            columns.append(np.zeros_like(function(values)))
            continue
        above, below = (function({**values, name: value + sign * step}) for sign in (1, -1))
        columns.append((above - below) / (2 * step))
    return np.array(columns).T
