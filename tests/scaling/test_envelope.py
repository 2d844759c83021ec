"""Approach 1: which points of training curves are its envelope, and the laws along it."""

import numpy as np
import pytest

from pretrainx.core.errors import DataError
from pretrainx.scaling import envelope
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.frontier_form import FRONTIER
from pretrainx.scaling.table import table


def curves(factor=6.0, sizes=60, points=60):
    """Each size at many lengths, on a surface with a = b = 1/2 where C = factor N D."""
    N = np.repeat(np.geomspace(1e7, 1e10, sizes), points)
    C = np.tile(np.geomspace(1e18, 1e22, points), sizes)
    D = C / (factor * N)
    runs = np.repeat([f"run{number}" for number in range(sizes)], points)
    return table(N, D, 1.7 + 300 / N**0.3 + 600 / D**0.3, flops=C, runs=runs)


def test_the_hull_is_the_lower_one_as_far_as_loss_falls():
    flops = np.exp([0.0, 1, 2, 3, 4, 5, 1, 0])
    loss = np.exp(
        [3.0, 2, 1.5, 0.9, 0.8, 1.2, 3, 4]
    )  # the third point lies above the line from the second to the fourth
    assert envelope.hull(flops, loss).tolist() == [0, 1, 3, 4]


def test_bins_take_the_lowest_of_each_and_only_below_all_before():
    flops = np.exp([0.0, 0.5, 1.2, 1.4, 2.5, 3.0])
    loss = np.array([3.0, 2.5, 2.4, 2.0, 2.2, 1.0])
    assert envelope.bins(flops, loss, 3).tolist() == [1, 3, 5]
    assert envelope.bins(flops, loss, 1).tolist() == [5]


@pytest.mark.parametrize("how", [{"hull": "hull"}, {"hull": "bins", "bins": 40}])
@pytest.mark.parametrize("factor", [6.0, 10.0])
def test_laws_along_the_envelope(how, factor):
    """The true exponents to a step of the sizes; the FLOPs of the rows count, not 6 N D."""
    rows = curves(factor)
    fit = envelope.fit(rows, FitOptions(method="envelope", **how))
    assert fit.values["a"] == pytest.approx(0.5, abs=0.02) and fit.values["b"] == pytest.approx(0.5, abs=0.02)
    N, D, L = FRONTIER.optimum(fit.values, 1e20)
    best = 2 ** (-1 / 0.6) * (1e20 / factor) ** 0.5
    assert N == pytest.approx(best, rel=0.1) and factor * N * D == pytest.approx(1e20, rel=0.02)
    assert L == pytest.approx(1.7 + 300 / best**0.3 + 600 / (1e20 / factor / best) ** 0.3, rel=2e-3)
    assert fit.rows == len(fit.diagnostics["envelope"]) == fit.diagnostics["points"]
    assert fit.cost.factor == pytest.approx(factor)


def test_refit_is_the_fit_and_order_does_not_matter():
    rows = curves(sizes=20, points=30)
    fit = envelope.fit(rows, FitOptions(method="envelope"))
    mixed = rows.take(np.random.default_rng(0).permutation(len(rows)))
    assert envelope.fit(mixed, FitOptions(method="envelope")).values == pytest.approx(fit.values, rel=1e-6)
    along = rows.take([one["row"] for one in fit.diagnostics["envelope"]])
    assert envelope.refit(fit, along) == pytest.approx(list(fit.values.values()), rel=1e-6)


def test_an_envelope_of_one_size_or_two_points_is_refused():
    """Small models that never win leave an envelope of one N, of which no exponent can be read."""
    rows = curves(sizes=2, points=20)
    worse = table(rows.parameters, rows.tokens, rows.loss + 10 * (rows.parameters < 1e9), flops=rows.flops)
    with pytest.raises(DataError, match="several sizes"):
        envelope.fit(worse, FitOptions(method="envelope"))
    with pytest.raises(DataError, match="2 found"):
        envelope.fit(rows.take([0, 39]), FitOptions(method="envelope"))
