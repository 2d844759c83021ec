"""The size that a budget buys at a ratio of tokens to parameters, whatever its FLOPs per token."""

from __future__ import annotations

import math

from pretrainx.scaling.fits import Cost

RATIO = 20.0  # tokens per parameter: the rule of thumb after Hoffmann et al. 2022


def at_ratio(budget: float, ratio: float, cost: Cost) -> float:
    """The N for which the budget is spent on `ratio` x N units: N x ratio x FLOPs per unit(N) = budget."""
    spent = lambda size: math.log(size * ratio * float(cost.per_token(size))) - math.log(budget)
    least, most = 0.0, math.log(budget)  # ln N: between one parameter and one FLOP for each
    for _ in range(200):
        middle = (least + most) / 2
        least, most = (least, middle) if spent(math.exp(middle)) > 0 else (middle, most)
    return math.exp((least + most) / 2)
