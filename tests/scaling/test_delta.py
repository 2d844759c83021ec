"""Standard errors by the delta method, beside what many tables show."""

from dataclasses import replace

import numpy as np
import pytest

from pretrainx.scaling import delta, fitting, parametric
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.fit_text import optimum
from scaling.synthetic import isoflop

QUICK = FitOptions(starts=5, replicates=0)


@pytest.mark.slow
@pytest.mark.parametrize("residual", ["log_mse", "huber", "mse", "asymmetric"])
def test_errors_are_the_spread_over_tables(residual):
    """The root mean square of errors over 8 tables against the spread of 200 fits, within a fifth of each other or so."""
    table, options = isoflop(sizes=11, noise=3e-3), replace(QUICK, residual=residual)
    found = fitting.fit(table, options)
    others = [isoflop(sizes=11, noise=3e-3, seed=seed) for seed in range(1, 201)]
    values = parametric.refit_many(found, others)
    spread = np.std(optimum(found, values, 1e21), axis=0)
    squares = []
    for other, one in zip(others[:8], values, strict=False):
        fit = replace(found, values=dict(zip(found.values, one.tolist(), strict=True)))
        fit = replace(fit, covariance=delta.covariance(fit, other))
        squares.append(delta.errors(fit, lambda new, fit=fit: optimum(fit, new, 1e21)) ** 2)
    ratio = np.sqrt(np.mean(squares, axis=0)) / spread
    assert (ratio > 0.75).all() and (ratio < 1.4).all(), ratio


def test_what_is_held_has_no_error_and_what_is_tied_one():
    table = isoflop(noise=2e-3)
    found = fitting.fit(table, replace(QUICK, fixed=(("E", 1.8172),), equal=True))
    deviations = np.sqrt(np.diag(found.covariance))
    assert deviations[0] == 0 and (deviations[1:] > 0).all()
    np.testing.assert_allclose(found.covariance[3], found.covariance[4])
    held = fitting.fit(table, replace(QUICK, fixed=(("alpha", 0.35),), equal=True))
    np.testing.assert_array_equal(np.diag(held.covariance)[3:], [0, 0])


def test_the_frontier_has_the_errors_of_its_regressions():
    """Those of a straight line through the minima, from the textbook (numpy's, scaled by the degrees of freedom)."""
    found = fitting.fit(isoflop(noise=2e-3), FitOptions(method="isoflop", replicates=0))
    minima = [one for one in found.diagnostics["minima"] if one["used"]]
    log_c = np.log([one["flops"] / found.values["C0"] for one in minima])
    names = list(found.values)
    for slope, column, values in (("a", "parameters", 2), ("b", "tokens", 2)):
        _, expected = np.polyfit(log_c, np.log([one[column] for one in minima]), 1, cov=True)
        error = found.covariance[names.index(slope), names.index(slope)]
        freedom = len(minima) - (len(names) - 1) / 3
        np.testing.assert_allclose(error * freedom / (len(minima) - values), expected[0, 0], rtol=1e-4)
    assert found.covariance[names.index("C0")].tolist() == [0.0] * len(names)


def test_too_few_runs_have_no_covariance():
    table = isoflop(budgets=(1e18, 1e19), sizes=3, noise=1e-3)
    found = fitting.fit(table, QUICK)
    grouped = replace(table, runs=("a", "b", "c", "d", "e", "e"))
    assert delta.covariance(found, grouped) is None and found.covariance is not None


def test_the_share_of_residuals_within_delta_is_smoothed():
    residual = 3e-3 * np.random.default_rng(0).standard_normal(4000)
    assert abs(delta.share_within(residual, 1e-3) - 0.261) < 0.015  # 2 Phi(1/3) - 1
    assert abs(delta.share_within(residual[:30], 1e-6) / 2e-6 - 0.3989 / 3e-3) < 50  # no residual is that small
