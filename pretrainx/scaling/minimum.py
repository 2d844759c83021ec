"""Where the loss of one budget is lowest: the vertex of a parabola, or the least value of an Akima interpolant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.interpolate import Akima1DInterpolator

FINENESS = 50  # points of the Akima grid between two sizes, on average


def parabola(x, y, counts) -> tuple[np.ndarray, np.ndarray]:
    """The lowest point of y = c0 + c1 x + c2 x^2.

    Args: x: float64[S], rising, S >= 3. y: float64[S, K], K curves. counts: float64[S], weights.
    Returns: position, value: float64[K]. A position is -inf or inf where the vertex lies beyond the least or the greatest x,
      and nan where the curve does not open upwards.
    """
    centre, scale = (x[0] + x[-1]) / 2, (x[-1] - x[0]) / 2
    c0, c1, c2 = _coefficients((x - centre) / scale, y, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        position = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
        value = c0 - c1**2 / (4 * c2)
    beyond = np.where(np.isnan(position) | (np.abs(position) < 1), position, np.copysign(np.inf, position))
    return centre + scale * beyond, np.where(np.isfinite(beyond), value, np.nan)


def akima(x, y, counts) -> tuple[np.ndarray, np.ndarray]:
    """The lowest point of the Akima interpolant (Akima 1970), as `parabola` returns it; it goes through all points."""
    grid = np.linspace(x[0], x[-1], (len(x) - 1) * FINENESS + 1)
    values = Akima1DInterpolator(x, y, axis=0)(grid)
    best, curve = np.argmin(values, axis=0), np.arange(y.shape[1])
    inner = np.clip(best, 1, len(grid) - 2)
    before, here, after = (values[inner + shift, curve] for shift in (-1, 0, 1))
    bend = before - 2 * here + after
    step = np.where(bend > 0, (before - after) / (2 * np.where(bend > 0, bend, 1.0)), 0.0)
    position, value = grid[inner] + step * (grid[1] - grid[0]), here - step * (before - after) / 4
    position = np.where(best == 0, -np.inf, np.where(best == len(grid) - 1, np.inf, position))
    return position, np.where(np.isfinite(position), value, np.nan)


MINIMA: dict[str, Callable] = {"parabola": parabola, "akima": akima}


def drawn(kind: str, x, y, counts, at) -> np.ndarray:
    """The curve of one budget at other x, float64[...]: for pictures and for residuals."""
    if kind == "akima":
        return Akima1DInterpolator(x, y)(at)
    centre, scale = (x[0] + x[-1]) / 2, (x[-1] - x[0]) / 2
    c0, c1, c2 = _coefficients((x - centre) / scale, y[:, None], counts)
    t = (at - centre) / scale
    return c0 + c1 * t + c2 * t**2


def reason(position: float, axis: str) -> str:
    """Why there is no minimum, "" where there is one."""
    if np.isfinite(position):
        return ""
    if np.isnan(position):
        return f"over {axis} the fitted curve does not open upwards"
    side = "smallest" if position < 0 else "largest"
    return f"no minimum inside: the fitted loss still falls towards the {side} {axis}"


def _coefficients(t, y, counts):
    """c0, c1, c2: float64[K] each, by weighted least squares."""
    root = np.sqrt(counts)[:, None]
    return np.linalg.lstsq(np.vander(t, 3, increasing=True) * root, y * root, rcond=None)[0]
