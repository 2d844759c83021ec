"""What a fit sums over its rows: a function of the predicted and the measured log loss, and its derivatives.

The sum, never the mean: with a delta of 1e-3 the terms are tiny, and a mean makes them smaller than the default tolerances of
optimisers, which then stop beside their start and report success.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Terms:
    """Of each row, float64[S, R]: the term; its first and second derivative by the predicted log loss; and the curvature of a
    parabola that touches the term and lies above it (all of it, or nearly), which is never negative.
    """

    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    above: np.ndarray


@dataclass(frozen=True)
class Residual:
    """Attributes:
    kind: "huber" on log loss (half squares up to delta, straight beyond), "log_mse" (half squares on log loss), "mse" (half
      squares on loss), "asymmetric" (half squares on log loss, overestimates weigh `penalty` times as much).
    """

    kind: str = "huber"
    delta: float = 1e-3
    penalty: float = 10.0

    def values(self, predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """The terms alone; predicted, measured: log losses, float64[S, R]."""
        if self.kind == "mse":
            return 0.5 * (np.exp(predicted) - np.exp(measured)) ** 2
        error = predicted - measured
        if self.kind == "asymmetric":
            return 0.5 * np.where(error > 0, self.penalty, 1.0) * error**2
        if self.kind == "log_mse":
            return 0.5 * error**2
        within = np.minimum(np.abs(error), self.delta)
        return within * (np.abs(error) - 0.5 * within)

    def terms(self, predicted: np.ndarray, measured: np.ndarray) -> Terms:
        """The terms with derivatives; predicted, measured: log losses, float64[S, R]."""
        value = self.values(predicted, measured)
        if self.kind == "mse":
            loss = np.exp(predicted)
            slope = (loss - np.exp(measured)) * loss
            return Terms(value, slope, loss**2 + slope, loss**2)
        error = predicted - measured
        if self.kind == "huber":
            far = np.abs(error) > self.delta
            above = np.where(far, self.delta / np.where(far, np.abs(error), 1.0), 1.0)
            return Terms(value, np.clip(error, -self.delta, self.delta), np.where(far, 0.0, 1.0), above)
        weight = np.where(error > 0, self.penalty, 1.0) if self.kind == "asymmetric" else np.ones_like(error)
        return Terms(value, weight * error, weight, weight)
