"""Where fits begin: Hoffmann's grid, ranked, in units in which it fits any table.

Hoffmann et al. 2022 (section D.2) started from a, b in 0, 5, ... 25, e in -1, -.5, ... 1 and alpha, beta in 0, .5, ... 2, for N
near 1e9, D near 2e10 and losses near e. The grid is laid about the middle of a table as it lay about theirs, so that neither
units nor domain matter. Few of the starts reach the optimum, hence many are run (Gemstones: 31% with tight tolerances).
"""

from __future__ import annotations

import itertools

import numpy as np

from pretrainx.scaling.form import ALPHA, BETA, DATA_RETURN, POWER, SIZE_RETURN, A, B, E
from pretrainx.scaling.optimise import Problem

BEST, SPREAD = 40, 60  # of the ranked grid: its head, and evenly over the rest
MIDDLE = np.log(1e9), np.log(2e10), 1.0  # ln N, ln D and ln L of the table for which the grid was made
SCALES, FLOORS = np.arange(0.0, 26.0, 5.0), np.arange(-1.0, 1.1, 0.5)
EXPONENTS = np.arange(0.0, 2.1, 0.5)
POWERS = (0.05, 0.1, 0.2, 0.5)
RETURNS = {DATA_RETURN: np.log((2.0, 15.0)), SIZE_RETURN: np.log((5.0,))}


def grid(problem: Problem) -> np.ndarray:
    """float64[S, F]: free coordinates of the whole grid, each place once; 4500 of them for the five-valued form."""
    free = problem.held.free
    level = float(np.mean(problem.measured))
    axes = []
    for coordinate in free:
        if coordinate in (ALPHA, BETA):
            axes.append(EXPONENTS)
        elif coordinate == POWER:
            axes.append(np.array(POWERS))
        elif coordinate in RETURNS:
            axes.append(RETURNS[coordinate])
        else:
            axes.append(SCALES if coordinate in (A, B) else FLOORS)
    places = np.array(list(itertools.product(*axes)))
    theta = problem.held.full(problem.held.clip(places))
    for column, coordinate in enumerate(free):
        # Of a place of the grid, not yet of a centred coordinate: a - alpha ln N at the middle, and all terms at the level.
        if coordinate in (A, B):
            exponent = theta[:, ALPHA if coordinate == A else BETA]
            places[:, column] -= exponent * MIDDLE[0 if coordinate == A else 1]
        if coordinate in (E, A, B):
            places[:, column] += level / theta[:, POWER] - MIDDLE[2]
    return np.unique(problem.held.clip(places), axis=0)


def chosen(problem: Problem, count: int, seed: int) -> np.ndarray:
    """float64[S, F]: the best 40 of the grid and 60 spread over the rest; or, with a count, so many drawn from it by `seed`."""
    places = grid(problem)
    if count:
        drawn = np.random.default_rng(seed).choice(len(places), size=min(count, len(places)), replace=False)
        return places[np.sort(drawn)]
    rows = max(1, 1_000_000 // problem.x.shape[-1])
    value = np.concatenate([problem.objective(places[i : i + rows]) for i in range(0, len(places), rows)])
    order = np.argsort(np.nan_to_num(value, nan=np.inf), kind="stable")
    if len(places) <= BEST + SPREAD:
        return places[order]
    spread = np.linspace(BEST, len(places) - 1, SPREAD).astype(int)
    return places[order[np.concatenate([np.arange(BEST), spread])]]
