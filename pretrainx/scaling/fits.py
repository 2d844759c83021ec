"""What a fit is, whatever its method: the numbers, their replicates, and everything that was decided on the way to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cost:
    """Training FLOPs of N parameters and D tokens: C = k(N) N D.

    Attributes:
      factor: k where there are no points.
      points: ((N, FLOPs per token), ...) in order of N, as rows of a table have them: k(N) N runs through them, straight in
        log-log, and goes on beyond the ends with the slope of all.
    """

    factor: float = 6.0
    points: tuple[tuple[float, float], ...] = ()

    def per_token(self, parameters):
        """FLOPs per token of float64[...] N."""
        if not self.points:
            return self.factor * np.asarray(parameters, np.float64)
        known, flops = np.log(np.asarray(self.points, np.float64)).T
        asked = np.log(np.asarray(parameters, np.float64))
        if len(known) == 1:
            return np.exp(flops[0] + asked - known[0])
        slope = np.polyfit(known, flops, 1)[0]
        inside = np.interp(asked, known, flops)
        beyond = np.where(asked < known[0], asked - known[0], np.where(asked > known[-1], asked - known[-1], 0.0))
        return np.exp(inside + slope * beyond)


OF_FILE = ("status", "where")  # rules by which rows never get into a table: their numbers are those of its file


@dataclass(frozen=True)
class Dropped:
    """A row that a fit left out: its number in the table, its run, the rule by name, and the reason in words."""

    row: int
    run: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Fit:
    """Attributes:
    method: a key of fitting.METHODS: "envelope", "isoflop", "parametric" or "curve" (L(C) alone).
    form: a key of laws.FORMS, which gives the values their meaning: "frontier" (N*(C), D*(C), L*(C)), "chinchilla", ...
    values: {name: number}, in the form's own names.
    samples: float64[S, P], bootstrap replicates of the values in their order; S may be 0. failures: refits that failed.
    covariance: float64[P, P] by the delta method, or None where the form has none.
    cost: FLOPs per token over N, as the rows have them.
    options: every choice: residual, delta, window, weights, seeds, constraints, ...
    dropped: rows left out, with rule and reason. rows: how many were fitted.
    diagnostics: objective, share of starts that agree, gradient norm, condition, bounds hit, minima of each budget, notes.
    range: ((least N, most N), (least D, most D), (least C, most C)) of the rows that were fitted.
    convention, counted, unit, source, digest: of the table.
    """

    method: str
    form: str
    values: Mapping[str, float]
    cost: Cost = Cost()
    samples: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    failures: int = 0
    covariance: np.ndarray | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[Dropped, ...] = ()
    rows: int = 0
    range: tuple[tuple[float, float], ...] = ()
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    convention: str = "6nd"
    counted: str = "total"
    unit: str = "token"
    source: str = ""
    digest: str = ""
