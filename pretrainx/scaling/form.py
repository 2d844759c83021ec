"""A law L(N, D): what its values mean, its loss, and the cheapest N and D for a budget.

All of them are one surface in other coordinates: L = (E + A / N^alpha + B / D^beta)^power, whose logarithm is
power * LSE(e, a - alpha ln N, b - beta ln D), so that loss, gradient and curvature are written once (Hoffmann et al. 2022,
section 3.3; Kaplan et al. 2020, equation 1.5; Gadre et al. 2024, section 2; Muennighoff et al. 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import ConfigError, nearest
from pretrainx.scaling.fits import Cost

# Coordinates of the surface, in this order: logs of the three terms' scales, the two exponents, the outer power.
E, A, B, ALPHA, BETA, POWER, DATA_RETURN, SIZE_RETURN = range(8)
SCALED_BY = {A: ALPHA, B: BETA}
REACH = 12.0  # of the first grid for an optimum, in ln N on each side
COARSE = 8  # such grids at most, each about the lowest point of the one before
NOTHING = -1e4  # a coordinate e with which the term E is zero to the last bit, beside any loss


@dataclass(frozen=True)
class Form:
    """A law with P values.

    Attributes:
      name: its key in FORMS.
      values: ((name, coordinate, kind), ...): how a value becomes a coordinate: its "log", "plain", as a "scale" (Kaplan's
        N_c: the coordinate is ln N_c times the exponent) or as a "ratio" to the outer power.
      constants: ((coordinate, number), ...) that are no values of this form.
      tied: whether beta is alpha.
    """

    name: str
    values: tuple[tuple[str, int, str], ...]
    constants: tuple[tuple[int, float], ...] = ((POWER, 1.0),)
    tied: bool = False
    size = 6  # how many coordinates
    asks_unique = False  # whether L depends on U

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _ in self.values)

    def vector(self, values) -> np.ndarray:
        """float64[..., P] of a mapping by name or of an array; ConfigError where a name is missing or unknown."""
        if not isinstance(values, Mapping):
            return np.asarray(values, np.float64)
        if odd := sorted(set(values) ^ set(self.names)):
            raise ConfigError(
                f"the values of form {self.name!r} are {', '.join(self.names)}",
                where=odd[0],
                why="it is missing" if odd[0] in self.names else nearest(odd[0], self.names),
                do="give each of them once",
            )
        return np.stack(np.broadcast_arrays(*(np.asarray(values[name], np.float64) for name in self.names)), -1)

    def coordinates(self, values) -> np.ndarray:
        """float64[..., K] of values: float64[..., P]."""
        values = self.vector(values)
        theta = np.zeros((*values.shape[:-1], self.size))
        for coordinate, number in self.constants:
            theta[..., coordinate] = number
        # Exponents come first, since scales are measured by them; of two exponents the outer power.
        order = sorted(
            range(len(self.values)), key=lambda i: -self.values[i][1] if self.values[i][1] < DATA_RETURN else 0
        )
        for i in order:
            _, coordinate, kind = self.values[i]
            given = values[..., i]
            if kind in ("log", "scale"):
                given = np.log(np.maximum(given, 1e-300))
            if kind == "scale":
                given = given * theta[..., SCALED_BY[coordinate]]
            if kind == "ratio":
                given = given / theta[..., POWER]
            theta[..., coordinate] = given
            if self.tied and coordinate == ALPHA:
                theta[..., BETA] = given
        return theta

    def from_coordinates(self, theta: np.ndarray) -> np.ndarray:
        """float64[..., P] of coordinates: float64[..., K]; a scale may overflow to inf where its exponent is nearly zero."""
        columns = []
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            for _, coordinate, kind in self.values:
                column = theta[..., coordinate]
                if kind == "scale":
                    column = column / theta[..., SCALED_BY[coordinate]]
                if kind == "ratio":
                    column = column * theta[..., POWER]
                columns.append(np.exp(column) if kind in ("log", "scale") else column)
        return np.stack(columns, -1)

    def loss(self, values, parameters, tokens, unique=None) -> np.ndarray:
        """L: float64[...] at N, D: float64[...], in the unit of the fitted losses. unique: U, of forms that ask for it."""
        theta = self.coordinates(values)
        x, y, u = (
            None if one is None else np.log(np.asarray(one, np.float64))[..., None]
            for one in (parameters, tokens, unique)
        )
        return np.exp(self.log_loss(theta, x, y, u))[..., 0]

    def log_loss(self, theta, x, y, u=None) -> np.ndarray:
        """ln L: float64[..., R] of theta: float64[..., K] at x = ln N, y = ln D: float64[..., R]. u: ln of unique tokens."""
        e, a, b, alpha, beta, power = (theta[..., i, None] for i in range(POWER + 1))
        return power * np.logaddexp(np.logaddexp(a - alpha * x, b - beta * y), e)

    def gradient(self, theta, x, y, u=None) -> tuple[np.ndarray, np.ndarray]:
        """ln L: float64[S, R] and its derivatives by the coordinates: float64[S, K, R], for theta: float64[S, K]."""
        e, a, b, alpha, beta, power = (theta[..., i, None] for i in range(POWER + 1))
        ofsize, ofdata = a - alpha * x, b - beta * y
        inner = np.logaddexp(np.logaddexp(ofsize, ofdata), e)
        by = np.zeros((*inner.shape[:-1], self.size, inner.shape[-1]))
        by[:, E] = power * np.exp(e - inner)
        by[:, A] = power * np.exp(ofsize - inner)
        by[:, B] = power * np.exp(ofdata - inner)
        by[:, ALPHA] = -x * by[:, A]
        by[:, BETA] = -y * by[:, B]
        by[:, POWER] = inner
        return power * inner, by

    def curvature(self, theta, by, rows, x, y, u=None) -> np.ndarray:
        """sum over rows of `rows`: float64[S, R] times the second derivatives of ln L: float64[S, K, K].

        by: what `gradient` gave. Scores are linear in the coordinates, so that the Hessian of their LSE is that of a softmax.
        """
        power = theta[:, POWER, None]
        inner = by[:, :POWER]
        second = np.zeros((len(by), self.size, self.size))
        second[:, :POWER, :POWER] = -np.matmul(inner * (rows / power)[:, None], np.swapaxes(inner, 1, 2))
        second[:, E, E] += np.sum(rows * by[:, E], -1)
        for scale, exponent, along in ((A, ALPHA, x), (B, BETA, y)):
            share = rows * by[:, scale]
            second[:, scale, scale] += np.sum(share, -1)
            second[:, exponent, exponent] += np.sum(share * along**2, -1)
            mixed = -np.sum(share * along, -1)
            second[:, scale, exponent] += mixed
            second[:, exponent, scale] += mixed
        mixed = np.sum(rows[:, None] * inner, -1) / power
        second[:, :POWER, POWER] += mixed
        second[:, POWER, :POWER] += mixed
        return second

    def optimum(self, values, budget, cost: Cost = Cost(), unique=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """N*, D*, L*: float64[...] at a budget in FLOPs: float64[...], for values: float64[..., P] or a mapping.

        Where C = k N D, alpha A / N^alpha = beta B / D^beta gives them in closed form (Hoffmann et al. 2022, equation 4);
        otherwise the loss is minimised along the real cost, D = C / cost.per_token(N).
        """
        theta, budget = self.coordinates(values), np.asarray(budget, np.float64)
        points = cost.points or ((1.0, cost.factor),)
        factor = np.exp(np.mean([np.log(flops / parameters) for parameters, flops in points]))
        alpha, beta, product = theta[..., ALPHA], theta[..., BETA], np.log(budget / factor)
        with np.errstate(divide="ignore", invalid="ignore"):
            size = theta[..., A] - theta[..., B] + np.log(alpha / beta) + beta * product
            size = size / (alpha + beta)
        if cost.points or not self.closed(unique):
            size = self.cheapest(theta, size, budget, cost, unique)
        parameters = np.exp(size)
        tokens = budget / cost.per_token(parameters)
        return parameters, tokens, self.loss(values, parameters, tokens, unique)

    def closed(self, unique) -> bool:
        """Whether the closed form holds at this number of unique tokens."""
        return True

    def cheapest(self, theta, size, budget, cost: Cost, unique) -> np.ndarray:
        """ln N: float64[...] of the least loss along the cost, by a grid about `size` that is narrowed about its lowest point.

        The loss is flat at its minimum: N is good to about 1e-7, relative.
        """
        u = None if unique is None else np.log(np.asarray(unique, np.float64))[..., None]
        size = np.broadcast_to(size, np.broadcast_shapes(np.shape(size), budget.shape))

        def lowest(size, reach: float, count: int):
            """ln N of the lowest of `count` points about each size, and whether one lies at an end of its points."""
            offsets = np.linspace(-reach, reach, count)
            x = size[..., None] + offsets
            y = np.log(budget[..., None] / cost.per_token(np.exp(x)))
            found = np.argmin(np.nan_to_num(self.log_loss(theta, x, y, u), nan=np.inf), -1)
            return size + offsets[found], np.any((found == 0) | (found == count - 1))

        # Far from the sizes whose cost was measured, the first guess is off by powers of ten.
        for _ in range(COARSE):
            size, at_an_end = lowest(size, REACH, 601)
            if not at_an_end:
                break
        reach = REACH / 300 * 1.5
        while reach > 1e-10:
            size, reach = lowest(size, reach, 41)[0], reach / 20 * 1.5
        return size
