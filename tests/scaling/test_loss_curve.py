"""L*(C) = E + A (C/C0)^-g: exact where it can be, bounded, and honest where it is ill-conditioned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.scaling import loss_curve, saturating
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.frontier_form import FRONTIER
from pretrainx.scaling.table import table

OPTIONS = FitOptions(method="curve")


def best_runs(E=1.5, A=0.9, g=0.13, budgets=5, noise=0.0):
    C = 1e18 * 3.0 ** np.arange(budgets)
    N = 1e8 * (C / 1e18) ** 0.6
    loss = (E + A * (C / 1e18) ** -g) * np.exp(noise * np.random.default_rng(0).standard_normal(budgets))
    return table(N, C / (6 * N), loss, budget=C)


@settings(max_examples=30, deadline=None)
@given(E=st.floats(0.0, 3.0), A=st.floats(0.2, 3.0), g=st.floats(0.03, 1.0), count=st.integers(3, 8))
def test_exact_curves_are_recovered(E, A, g, count):
    log_x = np.log(3.0) * (np.arange(count) - count / 2)
    found = saturating.solve(log_x, E + A * np.exp(-g * log_x))
    assert (found.E, found.A, found.g) == pytest.approx((E, A, g), rel=1e-3, abs=1e-3)
    assert found.objective < 1e-12


def test_three_points_determine_it_exactly_and_the_fit_says_so():
    fit = loss_curve.fit(best_runs(budgets=3, noise=1e-3), OPTIONS)
    assert any("exactly" in note for note in fit.diagnostics["notes"]) and fit.diagnostics["objective"] < 1e-15
    held = loss_curve.fit(best_runs(budgets=3, noise=1e-3), FitOptions(method="curve", fixed=(("E", 1.5),)))
    assert (
        held.values["E"] == 1.5
        and held.diagnostics["notes"] == [loss_curve.BEST_RUNS]
        and held.diagnostics["objective"] > 1e-9
    )
    by_g = loss_curve.fit(best_runs(budgets=3), FitOptions(method="curve", fixed=(("g", 0.13),)))
    assert by_g.values["E"] == pytest.approx(1.5, rel=1e-6)


def test_values_stay_positive():
    """Losses that fall ever faster would have E < 0: E stays at its bound, and the fit says so."""
    log_x = np.linspace(0, 8, 6)
    found = saturating.solve(log_x, 3 - 0.3 * log_x)
    assert found.E == 0 and found.A > 0 and any("bound 0" in note for note in found.notes)


def test_an_ill_conditioned_table_is_called_so():
    """The seven Cerebras-GPT points: curves with E from 0 to a half of the loss and more fit them alike."""
    C = [2.6e18, 1.3e19, 6e19, 2.8e20, 1.1e21, 6.3e21, 2.3e22]
    loss = np.array([2.566, 2.299, 2.184, 1.996, 1.834, 1.704, 1.572])
    found = saturating.solve(np.log(np.array(C) / 1e20), loss)
    assert any("ill-conditioned" in note for note in found.notes)
    assert found.floors[0] < 0.1 and found.floors[1] > 0.5066 and found.exponents[0] < 0.0737 < found.exponents[1]


def test_the_best_run_of_each_budget():
    """The lowest row of each budget has a part, the others none; and N* and D* are those of these rows."""
    rows = best_runs()
    worse = table(
        np.tile(rows.parameters, 2) * np.repeat([1, 2], 5),
        np.tile(rows.tokens, 2) / np.repeat([1, 2], 5),
        np.concatenate([rows.loss, rows.loss + 0.1]),
        budget=np.tile(rows.budget, 2),
    )
    fit = loss_curve.fit(worse, OPTIONS)
    assert fit.rows == 5 and fit.form == "frontier"
    N, D, L = FRONTIER.optimum(fit.values, 1e22)
    assert (N, D) == pytest.approx((1e8 * 1e4**0.6, 1e22 / 6e8 / 1e4**0.6), rel=1e-9)
    assert L == pytest.approx(1.5 + 0.9 * 1e4**-0.13, rel=1e-6)
    assert loss_curve.refit(fit, worse.take(np.arange(5))) == pytest.approx(list(fit.values.values()), rel=1e-6)
    assert loss_curve.BEST_RUNS in fit.diagnostics["notes"]


def test_a_budget_of_two_sizes_has_no_part_beside_larger_ones():
    rows = best_runs(budgets=6)
    spread = np.repeat([1.0, 0.5, 2.0], 6)
    sizes, tokens = np.tile(rows.parameters, 3) * spread, np.tile(rows.tokens, 3) / spread
    loss = np.tile(rows.loss, 3) + 0.1 * (spread != 1) + 0.05 * (np.tile(np.arange(6), 3) == 2)
    full = table(sizes, tokens, loss, budget=np.tile(rows.budget, 3))
    fit = loss_curve.fit(full.take(np.delete(np.arange(18), 14)), OPTIONS)  # of the third budget, the larger size
    assert [one.row for one in fit.dropped] == [2, 8] and "2 of the 3 sizes" in fit.dropped[0].reason
    assert [one["used"] for one in fit.diagnostics["minima"]] == [True, True, False, True, True, True]
    assert fit.values["E"] == pytest.approx(1.5, rel=1e-3) and not fit.diagnostics["notes"]


def test_values_may_be_many_sets_at_once():
    """Replicates: float64[S, P] against budgets float64[B]."""
    values = np.array(list(loss_curve.fit(best_runs(), OPTIONS).values.values()))
    many = FRONTIER.optimum(np.stack([values, values])[:, None], np.array([1e19, 1e20, 1e21]))
    assert many[2].shape == (2, 3) and many[2][1] == pytest.approx(
        FRONTIER.optimum(values, np.array([1e19, 1e20, 1e21]))[2]
    )


def test_refusals_of_the_frontier():
    with pytest.raises(DataError, match="2 found"):
        loss_curve.fit(best_runs(budgets=2), OPTIONS)
    with pytest.raises(ConfigError, match="beta"):
        loss_curve.fit(best_runs(), FitOptions(method="curve", fixed=(("beta", 0.3),)))
    with pytest.raises(DataError, match="of one's choice"):
        FRONTIER.loss(loss_curve.fit(best_runs(), OPTIONS).values, 1e9, 1e9)
