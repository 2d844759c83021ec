"""How long a fit with its intervals takes.

    python benchmarks/fit_speed.py [--runs=200] [--replicates=1000]

A table of that many runs is drawn from a known law (Besiroglu et al. 2024) with 0.3% noise on ten isoFLOP budgets; each row of
the output is a whole `fitting.fit`: start grid, polish, cross-check, delta method, bootstrap. Host only, no accelerator.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from pretrainx.scaling import fitting
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fit_text import optimum
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.presets import PRESETS
from pretrainx.scaling.table import Table, table

LIMIT = 60.0  # seconds
BUDGETS = np.geomspace(1e18, 1e21, 10)
NOISE = 3e-3


def drawn(runs: int) -> Table:
    """Sizes of each budget run from 1/6 to 6 times its optimum; as many in each, and those left over in the first."""
    law = PRESETS["besiroglu"].values
    counts = [runs // len(BUDGETS) + (number < runs % len(BUDGETS)) for number in range(len(BUDGETS))]
    sizes = [np.geomspace(1 / 6, 6, count) for count in counts]
    best = FORMS["chinchilla"].optimum(law, BUDGETS)[0]
    parameters = np.concatenate([center * some for center, some in zip(best, sizes, strict=True)])
    budget = np.repeat(BUDGETS, counts)
    loss = FORMS["chinchilla"].loss(law, parameters, budget / (6 * parameters))
    loss = loss * np.exp(NOISE * np.random.default_rng(0).standard_normal(runs))
    return table(parameters, budget / (6 * parameters), loss, budget=budget)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=1000)
    given = parser.parse_args()
    rows = drawn(given.runs)
    truth = PRESETS["besiroglu"].optimum(1e22)[0]
    print("| fit | rows | replicates | seconds | of CPU | N*(1e22) / true N*, 90% |")
    print("|---|---|---|---|---|---|")
    slow = False
    for name, options in (
        ("approach 3, Huber", FitOptions()),
        ("approach 3, squares", FitOptions(residual="log_mse")),
        ("approach 2, parabola", FitOptions(method="isoflop")),
        ("approach 2, Akima", FitOptions(method="isoflop", minimum="akima")),
        ("L(C)", FitOptions(method="curve")),
    ):
        begun, before = time.perf_counter(), time.process_time()
        found = fitting.fit(rows, FitOptions(**{**vars(options), "replicates": given.replicates}))
        seconds, processor = time.perf_counter() - begun, time.process_time() - before
        slow |= seconds > LIMIT
        low, high = np.exp(np.percentile(optimum(found, found.samples, 1e22)[:, 0], [5, 95])) / truth
        drawn_ones = f"{given.replicates} ({found.failures} failed)" if found.failures else f"{given.replicates}"
        print(f"| {name} | {found.rows} | {drawn_ones} | {seconds:.1f} | {processor:.1f} | {low:.3f} .. {high:.3f} |")
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
