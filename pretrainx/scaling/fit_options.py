"""Every choice of a fit, by name; it is stored with the result."""

from __future__ import annotations

from dataclasses import dataclass, field

METHODS = ("parametric", "isoflop", "envelope", "curve")
_ALL = ("method", "fixed", "seed", "replicates", "resample", "noise")
_OUTLIERS = ("outliers", "threshold")
# Which fields each method reads; another one may only have its default.
READS = {
    "parametric": (*_ALL, *_OUTLIERS, "form", "equal", "residual", "delta", "penalty", "starts", "near"),
    "isoflop": (*_ALL, *_OUTLIERS, "window", "minimum", "scale", "weights"),
    "envelope": (*_ALL, "hull", "bins"),
    "curve": _ALL,
}
FORMS = ("chinchilla", "additive", "kaplan", "shared", "data_constrained")
RESIDUALS = ("huber", "log_mse", "mse", "asymmetric")


@dataclass(frozen=True)
class FitOptions:
    """Attributes:
    method: "envelope", "isoflop" and "parametric" are approaches 1, 2 and 3 of Hoffmann et al. 2022; "curve" is L*(C) alone.
    form: of the parametric fit. fixed: ((name, value), ...) of values that are held, such as E. equal: alpha = beta.
    residual, delta: what is summed: Huber on log loss with this delta, squares on log loss or on loss, or squares on log loss
      in which an overestimate weighs `penalty` times as much.
    starts: of the optimiser; 0 ranks Hoffmann's whole grid. seed: of starts and replicates.
    window: of an isoFLOP parabola, points on each side of the lowest; 0 takes all. minimum: "parabola" or "akima".
    scale: what the parabola is of, "loss" or "log_loss". weights: of its minima in power laws: "none" or "error" (1 / std^2).
    hull: how approach 1 finds the envelope: "hull" (lower convex hull in log-log) or "bins" (best loss of each of `bins` in C).
    near: parametric fits keep rows whose N is within this factor of their budget's lowest; 0 keeps all.
    outliers: "none", or the rule that drops rows. threshold: of that rule, in robust standard deviations.
    replicates: of the bootstrap; resample: "run" draws runs, "noise" adds seed noise of size `noise` to log losses.
    """

    method: str = field(default="parametric", metadata={"choices": METHODS})
    form: str = field(default="chinchilla", metadata={"choices": FORMS})
    fixed: tuple[tuple[str, float], ...] = ()
    equal: bool = False
    residual: str = field(default="huber", metadata={"choices": RESIDUALS})
    delta: float = field(default=1e-3, metadata={"above": 0})
    penalty: float = field(default=10.0, metadata={"above": 0})
    starts: int = field(default=0, metadata={"min": 0})
    seed: int = field(default=0, metadata={"min": 0})
    window: int = field(default=0, metadata={"min": 0})
    minimum: str = field(default="parabola", metadata={"choices": ("parabola", "akima")})
    scale: str = field(default="loss", metadata={"choices": ("loss", "log_loss")})
    weights: str = field(default="none", metadata={"choices": ("none", "error")})
    hull: str = field(default="hull", metadata={"choices": ("hull", "bins")})
    bins: int = field(default=50, metadata={"min": 2})
    near: float = field(default=0.0, metadata={"min": 0})
    outliers: str = field(default="none", metadata={"choices": ("none", "residual")})
    threshold: float = field(default=4.0, metadata={"above": 0})
    replicates: int = field(default=1000, metadata={"min": 0})
    resample: str = field(default="run", metadata={"choices": ("run", "noise")})
    noise: float = field(default=0.0, metadata={"min": 0})
