"""Questions the other way round: C for a loss, D for an N and a loss, sizes off the optimum, and the cheapest size to serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from pretrainx.core.errors import DataError
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.predictions import optimum

FORWARD = 1 / 3  # of the FLOPs of a training token: forward, backward by inputs and by weights
WIDE = 15.0  # of ln C
STEPS = 12  # by which the logarithms of losses agree to 1e-14
FARTHEST = 200.0  # of ln N, ln D or ln C: what is not reached there is not reached
SMALLER = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Other:
    """A size off the optimum.

    Attributes:
      factor: how many times smaller than N* it is.
      parameters, tokens, loss: of this size, trained with the whole budget. cost: its loss over L*, minus one.
      same: FLOPs with which this size reaches L*; inf where it never does.
    """

    factor: float
    parameters: float
    tokens: float
    loss: float
    cost: float
    same: float


@dataclass(frozen=True)
class Served:
    """The size for which training and inference together cost least at one loss, beside the one that is cheapest to train.

    Attributes: parameters, tokens; training, inference, total: FLOPs; saved: the share of the cheapest-to-train one's total.
    """

    parameters: float
    tokens: float
    training: float
    inference: float
    total: float
    saved: float


# unique, everywhere: U, how many different tokens there are, of laws that ask for it; None: no limit.


def loss_at(fit: Fit, parameters: float, tokens: float, unique: float | None = None) -> float:
    """L at N and D. DataError where the fit is a frontier, which has no such loss."""
    return float(FORMS[fit.form].loss(fit.values, parameters, tokens, unique))


def budget_for(fit: Fit, loss: float, unique: float | None = None) -> float:
    """C: the least training FLOPs that reach a loss. DataError where no budget does."""
    at = lambda log_c: optimum(fit, np.exp(log_c), unique)[2]
    return _reached(at, np.log(fit.range[2][1]), loss, "no budget", fit)


def log_budgets(fit: Fit, loss: float, unique: float | None = None) -> np.ndarray:
    """float64[S]: ln C at which each replicate reaches a loss; nan where that is over WIDE away from the fit's own, or nowhere.

    All at once, by regula falsi (Illinois): one at a time, along a measured cost, would take minutes.
    """
    off = lambda log_c: np.log(FORMS[fit.form].optimum(fit.samples, np.exp(log_c), fit.cost, unique)[2] / loss)
    own = np.full(len(fit.samples), np.log(budget_for(fit, loss, unique)))
    low, high = own - WIDE, own + WIDE
    above, below = off(low), off(high)
    inside, before = (above >= 0) & (below <= 0), None
    for _ in range(STEPS):
        with np.errstate(invalid="ignore", divide="ignore"):
            asked = low + (high - low) * above / (above - below)
        found = off(np.where(inside, asked, own))
        left = found > 0
        rests = (
            1.0 if before is None else np.where(left == before, 0.5, 1.0)
        )  # the end that stands still counts for half
        below, above = np.where(left, rests * below, found), np.where(left, found, rests * above)
        before = left
        low, high = np.where(left, asked, low), np.where(left, high, asked)
    return np.where(inside, asked, np.nan)


def tokens_for(fit: Fit, parameters: float, loss: float, unique: float | None = None) -> float:
    """D with which N parameters reach a loss. DataError where no number of tokens is enough."""
    at = lambda log_d: loss_at(fit, parameters, np.exp(log_d), unique)
    return _reached(at, np.log(fit.range[1][1]), loss, f"with {parameters:.4g} parameters no number of tokens", fit)


def parameters_for(fit: Fit, tokens: float, loss: float, unique: float | None = None) -> float:
    """N that reaches a loss with D tokens. DataError where no size does."""
    at = lambda log_n: loss_at(fit, np.exp(log_n), tokens, unique)
    return _reached(at, np.log(fit.range[0][1]), loss, f"with {tokens:.4g} tokens no size", fit)


def others(fit: Fit, budget: float, factors: Sequence[float] = SMALLER, unique: float | None = None) -> list[Other]:
    """Sizes `factor` times smaller than the best of a budget: what the same FLOPs reach, and what the same loss costs."""
    size, _, least = (float(part) for part in optimum(fit, budget, unique))
    found = []
    for factor in factors:
        parameters = size / factor
        per_token = float(fit.cost.per_token(parameters))
        tokens = budget / per_token
        loss = loss_at(fit, parameters, tokens, unique)
        try:
            same = per_token * tokens_for(fit, parameters, least, unique)
        except DataError:
            same = float("inf")
        found.append(Other(factor, parameters, tokens, loss, loss / least - 1, same))
    return found


def served(fit: Fit, loss: float, inference: float, unique: float | None = None) -> Served:
    """N and D that reach a loss at the least training + inference FLOPs, for `inference` tokens that will be served.

    A served token costs a third of a training token's FLOPs, the forward part (Sardana et al. 2023, arXiv:2401.00448).
    DataError where the loss is out of reach, or the fit has no loss away from its frontier.
    """
    best, best_tokens, _ = (float(part) for part in optimum(fit, budget_for(fit, loss, unique), unique))

    def parts(log_n: float) -> tuple[float, float, float]:
        parameters = float(np.exp(log_n))
        per_token, tokens = float(fit.cost.per_token(parameters)), tokens_for(fit, parameters, loss, unique)
        return tokens, per_token * tokens, FORWARD * per_token * inference

    loss_at(fit, best, best_tokens)  # the frontier says so before anything is searched
    without_end = lambda log_n: loss_at(fit, np.exp(log_n), np.exp(FARTHEST), unique) - loss
    least = brentq(without_end, np.log(best) - 100, np.log(best))
    spend = lambda log_n: sum(parts(log_n)[1:])
    found = minimize_scalar(
        lambda share: np.log(spend(np.log(best) + share * (least - np.log(best)))),
        bounds=(0.0, 1 - 1e-6),
        method="bounded",
        options={"xatol": 1e-10},
    )
    log_n = np.log(best) + found.x * (least - np.log(best))
    tokens, training, serving = parts(log_n)
    total = training + serving
    return Served(float(np.exp(log_n)), tokens, training, serving, total, 1 - total / spend(np.log(best)))


def _reached(at: Callable[[float], float], start: float, loss: float, what: str, fit: Fit) -> float:
    """exp(x) where a loss that falls with x is `loss`. DataError with the least that is reachable."""
    least = float(at(FARTHEST))
    if not loss > least * (1 + 1e-12):
        raise DataError(
            f"{what} reaches a loss of {loss:.6g}",
            where=f"form {fit.form}, method {fit.method}",
            why=f"without limit it comes down to {least:.6g}",
            do=f"ask for a loss above {least:.6g}",
        )
    low = start
    while at(low) < loss and low > -FARTHEST:
        low -= 10.0
    if not at(low) >= loss:
        raise DataError(
            f"a loss of {loss:.6g} is reached with next to nothing",
            where=f"form {fit.form}, method {fit.method}",
            why=f"the law is so flat that it never rises above {float(at(low)):.6g}",
            do="ask for a lower loss, or look at the fit: an exponent may be at its bound",
        )
    return float(np.exp(brentq(lambda x: float(at(x)) - loss, low, FARTHEST, xtol=1e-12, rtol=1e-13)))
