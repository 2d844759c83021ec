"""Approach 2: what it recovers exactly, what it cannot, and what it leaves out aloud."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import DataError
from pretrainx.scaling import budgets, isoflop
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.frontier_form import FRONTIER
from pretrainx.scaling.table import table

OPTIONS = FitOptions(method="isoflop")
BUDGETS = np.geomspace(1e17, 1e21, 9)
HOFFMANN = (1.69, 406.4, 410.7, 0.34, 0.28)
BESIROGLU = (1.8172, 482.01, 2085.43, 0.3478, 0.3658)
SYMMETRIC = (1.69, 406.4, 410.7, 0.31, 0.31)


def valleys(a=0.6, tilt=1.1, sizes=7, wide=4.0, noise=0.0, seed=0, chosen=BUDGETS):
    """Losses that are quadratic in ln N, with 20 N^tilt FLOPs per token, so that they are in ln D too and a + b is not 1."""
    C = np.repeat(chosen, sizes)
    optimum = 3e8 * (C / 1e19) ** a
    N = optimum * np.tile(np.geomspace(1 / wide, wide, sizes), len(chosen))
    loss = 1.7 + 1.1 * (C / 1e19) ** -0.12 + 0.03 * np.log(N / optimum) ** 2
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(C)))
    return table(N, C / (20 * N**tilt), loss, flops=C, budget=C, convention="model")


def surface(law, wide=8.0, sizes=9):
    """L = E + A / N^alpha + B / D^beta around the optimum of C = 6 N D; and N* of a budget."""
    E, A, B, alpha, beta = law
    a, C = beta / (alpha + beta), np.repeat(BUDGETS, sizes)
    best = lambda budget: (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (budget / 6) ** a
    N = best(C) * np.tile(np.geomspace(1 / wide, wide, sizes), len(BUDGETS))
    D = C / (6 * N)
    return table(N, D, E + A / N**alpha + B / D**beta, budget=C), best, a


@pytest.mark.parametrize("change", [{}, {"window": 2}, {"weights": "error"}, {"weights": "error", "window": 3}])
def test_exact_valleys_are_recovered(change):
    """N*, D* and L* each by their own law: D* is not C / (6 N*) and a + b is not 1."""
    fit = isoflop.fit(valleys(), FitOptions(method="isoflop", **change))
    assert fit.values["a"] == pytest.approx(0.6, abs=1e-6)
    assert fit.values["b"] == pytest.approx(1 - 1.1 * 0.6, abs=1e-6)
    N, D, L = FRONTIER.optimum(fit.values, 1e22)
    assert N == pytest.approx(3e8 * 1e3**0.6, rel=1e-5)
    assert D == pytest.approx(1e22 / (20 * N**1.1), rel=1e-5)
    assert L == pytest.approx(1.7 + 1.1 * 1e3**-0.12, rel=1e-5)
    assert fit.rows == len(valleys()) if not change.get("window") else fit.rows == 9 * (2 * change["window"] + 1)
    assert fit.cost.per_token(1e9) == pytest.approx(20 * 1e9**1.1, rel=1e-6)
    assert set(fit.diagnostics["windows"]) == {"all", "2", "3", "5"}


@pytest.mark.parametrize(("law", "bias"), [(HOFFMANN, 0.032), (BESIROGLU, -0.010), (SYMMETRIC, 0.0)])
def test_asymmetric_surface_right_exponent_biased_intercept(law, bias):
    """What a parabola does to a surface whose exponents differ, from budgets of 1e17 to 1e21 to one of 5.76e23."""
    rows, best, a = surface(law)
    fit = isoflop.fit(rows, OPTIONS)
    assert fit.values["a"] == pytest.approx(a, abs=1e-9)
    off = FRONTIER.optimum(fit.values, 5.76e23)[0] / best(5.76e23) - 1
    assert off == pytest.approx(bias, abs=6e-4)
    narrow = isoflop.fit(rows, FitOptions(method="isoflop", window=2))
    assert abs(FRONTIER.optimum(narrow.values, 5.76e23)[0] / best(5.76e23) - 1) <= abs(off) / 2 + 1e-9


def test_akima_finds_the_true_minimum_where_a_parabola_is_biased():
    rows, best, _ = surface(HOFFMANN)
    fit = isoflop.fit(rows, FitOptions(method="isoflop", minimum="akima", scale="log_loss"))
    assert FRONTIER.optimum(fit.values, 1e19)[0] == pytest.approx(best(1e19), rel=0.01)


def test_noisy_budgets_weigh_less():
    """Of two disturbed budgets' minima, weights by error follow the ones that are known better."""
    rows = valleys(noise=1e-4)
    wild = rows.budget >= 3e20
    loss = rows.loss * np.where(wild, np.exp(0.004 * np.random.default_rng(3).standard_normal(len(rows))), 1.0)
    disturbed = table(
        rows.parameters, rows.tokens, loss, flops=rows.flops, budget=rows.budget, error=np.where(wild, 0.01, 2e-4)
    )
    plain, weighted = (
        isoflop.fit(disturbed, FitOptions(method="isoflop", weights=kind)).values["a"] for kind in ("none", "error")
    )
    assert abs(weighted - 0.6) < abs(plain - 0.6) / 4
    fit = isoflop.fit(disturbed, FitOptions(method="isoflop", weights="error"))
    errors = [one["errors"][0] for one in fit.diagnostics["minima"]]
    assert min(errors[-2:]) > 5 * max(errors[:-2])


def test_akima_has_no_residuals_to_weigh_by():
    with pytest.raises(DataError, match="noise"):
        isoflop.fit(valleys(), FitOptions(method="isoflop", minimum="akima", weights="error"))


def test_a_budget_without_a_minimum_is_listed_and_unused():
    """One that still falls at its largest size, and one of two sizes: no part in the laws, and none of it silent."""
    rows = valleys()
    keep = ~((rows.budget == BUDGETS[0]) & (rows.parameters > 0.3 * 3e8 * (BUDGETS[0] / 1e19) ** 0.6))
    keep &= ~((rows.budget == BUDGETS[1]) & (rows.parameters > 0.7 * 3e8 * (BUDGETS[1] / 1e19) ** 0.6))
    fit = isoflop.fit(rows.take(keep), OPTIONS)
    first, second, *rest = fit.diagnostics["minima"]
    assert "sizes" in first["reason"] and "largest N" in second["reason"] and all(one["used"] for one in rest)
    assert not first["used"] and not second["used"]
    assert {one.row for one in fit.dropped} == {*first["rows"], *second["rows"]}
    assert fit.values["a"] == pytest.approx(0.6, abs=1e-6) and fit.diagnostics["points"] == 7


@pytest.mark.parametrize("kind", ["parabola", "akima"])
def test_a_minimum_at_the_edge_is_none(kind):
    """Sizes that stop short of the optimum: the lowest is the last, whatever the curve says beyond it."""
    rows = valleys(wide=9.0)
    short = rows.take(rows.parameters < 0.8 * 3e8 * (rows.flops / 1e19) ** 0.6)
    with pytest.raises(DataError, match="0 found") as error:
        isoflop.fit(short, FitOptions(method="isoflop", minimum=kind))
    assert str(error.value).count("largest N") == 9


def test_what_a_budget_costs_is_read_from_its_rows():
    """A label of forward FLOPs only groups rows, and tokens that are rounded to whole steps stay one budget."""
    rows = valleys()
    renamed = table(rows.parameters, rows.tokens, rows.loss, flops=rows.flops, budget=rows.budget / 3)
    assert isoflop.fit(renamed, OPTIONS).values["C0"] == pytest.approx(1e19, rel=1e-6)
    rounding = np.exp(0.01 * np.random.default_rng(0).uniform(-1, 1, len(rows)))
    unnamed = table(rows.parameters, rows.tokens * rounding, rows.loss, flops=rows.flops * rounding)
    assert [len(group) for group in budgets.by_budget(unnamed)] == [7] * 9
    assert isoflop.fit(unnamed, OPTIONS).values["a"] == pytest.approx(0.6, abs=2e-3)


def test_rows_that_follow_each_other_closely_are_not_one_budget():
    """Each is 8% above the one before: a group ends 10% above its first."""
    rows = table(np.ones(6), 1.08 ** np.arange(6), np.ones(6))
    assert [group.tolist() for group in budgets.by_budget(rows)] == [[0, 1], [2, 3], [4, 5]]


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(35)),
    size=st.floats(1e-9, 1e9),
    token=st.floats(1e-9, 1e9),
    kind=st.sampled_from(["parabola", "akima"]),
)
def test_order_and_units_do_not_matter(order, size, token, kind):
    options = FitOptions(method="isoflop", minimum=kind)
    rows = valleys(noise=1e-3, chosen=BUDGETS[::2])
    base = isoflop.fit(rows, options)
    moved = rows.take(np.array(order))
    moved = table(moved.parameters * size, moved.tokens * token, moved.loss, flops=moved.flops, budget=moved.budget)
    other = isoflop.fit(moved, options)
    for name in ("a", "b", "E", "A", "g", "C0"):
        assert other.values[name] == pytest.approx(base.values[name], rel=1e-5, abs=1e-7)
    N, D, L = FRONTIER.optimum(base.values, 1e22)
    assert FRONTIER.optimum(other.values, 1e22) == pytest.approx((N * size, D * token, L), rel=1e-4)


def test_runs_of_one_size_are_averaged():
    """Twice the same rows is the same fit, with twice the rows."""
    rows = valleys(noise=1e-3)
    twice = rows.take(np.tile(np.arange(len(rows)), 2))
    one, two = isoflop.fit(rows, OPTIONS), isoflop.fit(twice, OPTIONS)
    assert two.values["a"] == pytest.approx(one.values["a"], abs=1e-9) and two.rows == 2 * one.rows


@pytest.mark.parametrize("change", [{}, {"weights": "error"}, {"fixed": (("E", 1.5),)}])
def test_refit_of_the_same_table_is_the_fit(change):
    """And of a drawn one another; of one in which two budgets are left, an error."""
    rows = valleys(noise=2e-3)
    fit = isoflop.fit(rows, FitOptions(method="isoflop", **change))
    assert isoflop.refit(fit, rows) == pytest.approx(list(fit.values.values()), rel=1e-6)
    drawn = isoflop.refit(fit, rows.take(np.random.default_rng(1).integers(len(rows), size=len(rows))))
    assert 0 < abs(drawn[1] - fit.values["a"]) < 0.1 and drawn[-1] == fit.values["C0"]
    with pytest.raises(DataError, match="2 found"):
        isoflop.refit(fit, rows.take(rows.budget < 4e17))


def test_held_values_are_held():
    fit = isoflop.fit(valleys(noise=1e-3), FitOptions(method="isoflop", fixed=(("a", 0.5), ("E", 1.6))))
    assert fit.values["a"] == 0.5 and fit.values["E"] == 1.6 and fit.values["b"] != 0.5
