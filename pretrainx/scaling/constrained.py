"""What repeated tokens and surplus parameters are worth (Muennighoff et al. 2023, arXiv 2305.16264, section 3).

U_D = min(U, D), R_D = D / U_D - 1, D' = U_D (1 + r_D (1 - exp(-R_D / r_D))): a token that was seen R_D times before is worth
exp(-R_D / r_D) of a new one. U_N = min(N, the N that is optimal for U_D), and N' of it likewise with r_N. Without both minima
repetitions could be negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrainx.scaling.form import ALPHA, BETA, DATA_RETURN, SIZE_RETURN, A, B, E, Form

NUDGE = 1e-6  # of a coordinate, for second derivatives
MOVED = (
    A,
    B,
    ALPHA,
    BETA,
    DATA_RETURN,
    SIZE_RETURN,
)  # the curvature along E is that of a softmax; the outer power is 1


def _worth(excess: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln of what 1 + R is worth, and its derivatives by R and by ln r. excess: R >= 0; rate: r."""
    faded = np.exp(-excess / rate)
    worth = 1 - rate * np.expm1(-excess / rate)
    return np.log(worth), faded / worth, (worth - 1 - excess * faded) / worth


@dataclass(frozen=True)
class DataConstrained(Form):
    size = 8
    asks_unique = True

    def closed(self, unique) -> bool:
        return unique is None

    def log_loss(self, theta, x, y, u=None):
        return super().log_loss(theta, *(one[0] for one in self._effective(theta, x, y, u)))

    def gradient(self, theta, x, y, u=None):
        (size, size_by), (data, data_by) = self._effective(theta, x, y, u)
        logarithm, by = super().gradient(theta, size, data)
        by_size = -theta[..., ALPHA, None] * by[:, A]
        by_data = -theta[..., BETA, None] * by[:, B]
        for coordinate, derivative in size_by.items():
            by[:, coordinate] += by_size * derivative
        for coordinate, derivative in data_by.items():
            by[:, coordinate] += by_data * derivative
        return logarithm, by

    def curvature(self, theta, by, rows, x, y, u=None):
        """Differences of the gradient, weighted by rows that stand still: smooth up to the kink where N' leaves N."""
        rows = np.broadcast_to(rows, by[:, 0].shape)
        second = np.zeros((len(theta), self.size, self.size))
        for coordinate in MOVED:
            step = np.zeros(self.size)
            step[coordinate] = NUDGE
            moved = self.gradient(theta + step, x, y, u)[1] - by
            second[:, coordinate] = np.matmul(moved, rows[..., None])[..., 0] / NUDGE
        second[:, E, MOVED] = second[:, MOVED, E]
        second[:, E, E] = np.sum(rows * by[:, E] * (1 - by[:, E]), -1)
        return (second + np.swapaxes(second, 1, 2)) / 2

    @staticmethod
    def _effective(theta, x, y, u):
        """ln N' and ln D': float64[..., R], each with {coordinate: derivative}."""
        alpha, beta = theta[..., ALPHA, None], theta[..., BETA, None]
        unique = y if u is None else np.minimum(u, y)
        more = np.expm1(y - unique)
        gain, _, by_rate = _worth(more, np.exp(theta[..., DATA_RETURN, None]))
        data = unique + gain, {DATA_RETURN: by_rate}

        # alpha A / U_N^alpha = beta B / U_D^beta is the optimum's condition, whatever the FLOPs per parameter and token.
        wanted = theta[..., A, None] - theta[..., B, None] + np.log(alpha / beta) + beta * unique
        wanted = wanted / alpha
        enough = np.minimum(x, wanted)
        more = np.expm1(np.minimum(x - enough, 200.0))
        gain, by_more, by_rate = _worth(more, np.exp(theta[..., SIZE_RETURN, None]))
        # Where U_N is N nothing is in surplus and these vanish: R grows as U_N falls.
        by_enough = np.where(x > wanted, 1 - by_more * (more + 1), 0.0)
        size_by = {
            SIZE_RETURN: by_rate,
            A: by_enough / alpha,
            B: -by_enough / alpha,
            ALPHA: by_enough * (1 / alpha - wanted) / alpha,
            BETA: by_enough * (unique - 1 / beta) / alpha,
        }
        return (enough + gain, size_by), data
