"""Tables from a known law."""

import numpy as np

from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.table import table

# Besiroglu et al. 2024.
LAW = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def isoflop(budgets=(1e18, 3e18, 1e19, 3e19, 1e20), sizes=7, noise=0.0, seed=0):
    """A row for each size, from 1/6 to 6 times the optimum of each budget; normal noise on log loss."""
    parameters, tokens, budget = [], [], []
    for flops in budgets:
        best = float(FORMS["chinchilla"].optimum(LAW, flops)[0])
        some = best * np.geomspace(1 / 6, 6, sizes)
        parameters.append(some)
        tokens.append(flops / (6 * some))
        budget.append(np.full(sizes, flops))
    parameters, tokens, budget = map(np.concatenate, (parameters, tokens, budget))
    loss = FORMS["chinchilla"].loss(LAW, parameters, tokens)
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))
    return table(parameters, tokens, loss, budget=budget)


def curves(runs=12, points=8, between=0.01, within=0.002, seed=0):
    """Runs of several checkpoints each; what a run is off is shared by its checkpoints."""
    random = np.random.default_rng(seed)
    parameters = np.repeat(np.geomspace(1e7, 1e9, runs), points)
    tokens = np.tile(np.geomspace(1e9, 3e10, points), runs)
    off = np.repeat(between * random.standard_normal(runs), points) + within * random.standard_normal(runs * points)
    loss = FORMS["chinchilla"].loss(LAW, parameters, tokens) * np.exp(off)
    return table(parameters, tokens, loss, runs=np.repeat([f"run{number}" for number in range(runs)], points))
