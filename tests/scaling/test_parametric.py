"""Approach 3: the optimum is found whatever the start, the units and the order; what does not determine a law is said."""

import time
from dataclasses import replace

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.scaling import parametric
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.laws import FORMS
from pretrainx.scaling.presets import PRESETS
from pretrainx.scaling.table import table
from scaling.synthetic import LAW, curves, isoflop

FEW = FitOptions(starts=8)
LAWS = {
    "chinchilla": LAW,
    "additive": {"E": 1.7, "Nc": 8.8e7, "Dc": 5.4e9, "aN": 0.3, "aD": 0.33},
    "kaplan": {"Nc": 6.4e13, "Dc": 1.8e13, "aN": 0.076, "aD": 0.103},
    "shared": {"E": 1.8, "a": 166.0, "b": 287.0, "eta": 0.27},
}


def wide(name="chinchilla", rows=60, noise=0.0, seed=0, values=None):
    """N over a factor 1000, 2 to 300 tokens for each, half of the rows with repeated tokens."""
    random = np.random.default_rng(seed)
    parameters = np.exp(random.uniform(np.log(1e7), np.log(1e10), rows))
    tokens = parameters * np.exp(random.uniform(np.log(2), np.log(300), rows))
    unique = np.minimum(tokens, np.exp(random.uniform(np.log(1e8), np.log(1e11), rows)))
    loss = FORMS[name].loss(values or LAWS[name], parameters, tokens, unique)
    return table(parameters, tokens, loss * np.exp(noise * random.normal(size=rows)), unique=unique)


def close(one, other, within=1e-5):
    return list(one.values()) == pytest.approx(list(other.values()), rel=within)


@pytest.mark.parametrize("name", LAWS)
def test_a_known_law_comes_back(name):
    fit = parametric.fit(wide(name), replace(FEW, form=name))
    assert close(fit.values, LAWS[name])
    assert ("projection" in fit.diagnostics) == (name != "kaplan")  # whose terms are not linear
    assert fit.form == name and fit.rows == 60 and fit.cost.factor == pytest.approx(6)


def test_residuals_are_summed_and_a_famous_start_is_left():
    """With a mean, defaults of optimisers stop beside the start and report success."""
    rows = wide(noise=0.01)
    begun = parametric.fit(rows, start=PRESETS["hoffmann"].values)
    best = parametric.fit(rows)
    error = np.abs(np.log(FORMS["chinchilla"].loss(best.values, rows.parameters, rows.tokens) / rows.loss))
    within = np.minimum(error, 1e-3)
    assert best.diagnostics["objective"] == pytest.approx(np.sum(within * (error - within / 2)), rel=1e-9)
    assert begun.diagnostics["objective"] == pytest.approx(best.diagnostics["objective"], rel=1e-9)
    assert close(begun.values, best.values, 1e-4) and best.values["E"] != pytest.approx(1.69, abs=0.02)
    assert best.diagnostics["agreement"] > 0.5 and best.diagnostics["starts"] == 100
    low, high = best.diagnostics["spread"]["alpha"]
    assert low <= best.values["alpha"] <= high
    assert not best.diagnostics["notes"]


def test_units_order_and_copies_change_nothing():
    rows = wide(noise=0.01)
    fit = parametric.fit(rows, FEW)
    small = replace(rows, parameters=rows.parameters / 1e6, tokens=rows.tokens / 1e9, unique=rows.unique / 1e9)
    scaled = parametric.fit(small, FEW).values
    converted = {
        "A": scaled["A"] * 1e6 ** scaled["alpha"],
        "B": scaled["B"] * 1e9 ** scaled["beta"],
    }
    assert close(scaled | converted, fit.values)
    order = np.random.default_rng(1).permutation(60)
    assert close(parametric.fit(rows.take(order), FEW).values, fit.values)
    twice = parametric.fit(rows.take(np.repeat(order, 2)), FEW)
    assert close(twice.values, fit.values)
    assert twice.diagnostics["objective"] == pytest.approx(2 * fit.diagnostics["objective"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("residual", ["log_mse", "mse", "asymmetric"])
def test_other_residuals(residual):
    rows = wide(noise=0.01)
    fit = parametric.fit(rows, replace(FEW, residual=residual))
    predicted = FORMS["chinchilla"].loss(fit.values, rows.parameters, rows.tokens)
    error = predicted - rows.loss if residual == "mse" else np.log(predicted / rows.loss)
    if residual == "asymmetric":
        assert np.mean(error > 0) < 0.3  # an overestimate weighs ten times as much
        error = np.where(error > 0, np.sqrt(10) * error, error)
    assert fit.diagnostics["objective"] == pytest.approx(np.sum(error**2) / 2, rel=1e-9)
    # No direction leads down from there.
    for name in fit.values:
        for sign in (1, -1):
            moved = parametric.fit(
                rows, replace(FEW, residual=residual, fixed=((name, fit.values[name] * (1 + 1e-3 * sign)),))
            )
            assert moved.diagnostics["objective"] >= fit.diagnostics["objective"] * (1 - 1e-9)


def test_held_and_equal_values():
    rows = wide(noise=0.01)
    free = parametric.fit(rows, FEW).diagnostics["objective"]
    fit = parametric.fit(rows, replace(FEW, fixed=(("E", 1.7), ("alpha", 0.3))))
    assert fit.values["E"] == pytest.approx(1.7) and fit.values["alpha"] == 0.3 and fit.diagnostics["objective"] > free
    fit = parametric.fit(rows, replace(FEW, equal=True))
    assert fit.values["alpha"] == fit.values["beta"]
    assert parametric.fit(rows, replace(FEW, fixed=(("E", 0.0),))).values["E"] < 1e-200
    fit = parametric.fit(rows, replace(FEW, form="additive", fixed=(("Nc", 5e7),)))
    assert fit.values["Nc"] == pytest.approx(5e7)
    fit = parametric.fit(wide("kaplan"), replace(FEW, form="kaplan", fixed=(("aN", 0.08), ("aD", 0.1))))
    assert (fit.values["aN"], fit.values["aD"]) == pytest.approx((0.08, 0.1))
    for options, said in (
        (replace(FEW, fixed=(("gamma", 1.0),)), "gamma"),
        (replace(FEW, fixed=(("A", -1.0),)), "positive"),
        (replace(FEW, equal=True, fixed=(("alpha", 0.3), ("beta", 0.4))), "differ"),
        (replace(FEW, form="kaplan", fixed=(("aN", 0.08),)), "together"),
    ):
        with pytest.raises(ConfigError, match=said):
            parametric.fit(rows, options)


def test_projection_finds_the_same_law():
    found = parametric.fit(wide(noise=0.01), FEW).diagnostics
    difference = found["projection_difference"]
    assert abs(difference["objective"]) < 1e-4
    assert max(abs(difference[name]) for name in ("E", "alpha", "beta")) < 5e-3


def test_tables_that_do_not_determine_a_law_are_said_to():
    """At 20 tokens for each parameter N and D are one variable."""
    flops = np.array([2.6e18, 1.1e19, 6.5e19, 2.8e20, 1.1e21, 6.4e21, 2.3e22])
    size = np.sqrt(flops / 120)
    notes = " ".join(parametric.fit(table(size, 20 * size, 1.6 + 20 / flops**0.07)).diagnostics["notes"])
    assert "N and D rise together" in notes and "flat valley" in notes
    with pytest.raises(DataError, match="5 rows"):
        parametric.fit(wide(rows=4))
    rows = wide()
    with pytest.raises(DataError, match="several sizes"):
        parametric.fit(replace(rows, parameters=np.full(60, 1e8)))
    with pytest.raises(DataError, match="several lengths"):
        parametric.fit(replace(rows, tokens=np.full(60, 1e10)))
    with pytest.raises(DataError, match="loss is nan"):
        parametric.fit(replace(rows, loss=np.where(np.arange(60) == 3, np.nan, rows.loss)))


def test_replicates_are_fitted_together():
    rows = curves(runs=12, points=6)
    fit = parametric.fit(rows, FEW)
    random = np.random.default_rng(0)
    tables = [rows.take(random.integers(len(rows), size=count)) for count in (72, 60, 72, 50)]
    values = parametric.refit_many(fit, [*tables, rows.take(np.zeros(72, int)), rows])
    for one, found in zip(tables[:2], values, strict=False):
        whole = parametric.fit(one, FEW)
        problem = parametric.problem_of(one, FEW, FORMS["chinchilla"])
        centred = problem.held.centred(FORMS["chinchilla"].coordinates(found))
        assert problem.objective(centred[None, :5])[0] <= whole.diagnostics["objective"] * (1 + 1e-3)
    assert np.isnan(values[4]).all()
    assert values[5] == pytest.approx(list(fit.values.values()), rel=1e-3)
    assert parametric.refit(fit, tables[1]) == pytest.approx(values[1], rel=1e-4)
    with pytest.raises(DataError, match="does not determine"):
        parametric.refit(fit, rows.take(np.zeros(72, int)))


def test_rows_far_from_the_minimum_are_left_out_by_name():
    rows = isoflop()
    fit = parametric.fit(rows, replace(FEW, near=3.7))
    assert fit.rows + len(fit.dropped) == len(rows) and {one.rule for one in fit.dropped} == {"near"}
    assert len(fit.dropped) == 10 and "factor" in fit.dropped[0].reason  # the smallest and the largest of each budget
    assert close(fit.values, LAW)
    unnamed = replace(rows, budget=np.full(len(rows), np.nan))  # C says which rows belong together
    assert [one.row for one in parametric.far_from_lowest(unnamed, 3.7)] == [one.row for one in fit.dropped]
    unnamed.budget[1:] = rows.budget[1:]
    assert parametric.far_from_lowest(unnamed, 1e9)[0].rule == "no budget"


@pytest.mark.slow
def test_repeated_data_are_told_from_new():
    truth = PRESETS["muennighoff"].values
    fit = parametric.fit(wide("data_constrained", rows=200, values=truth), FitOptions(form="data_constrained"))
    assert close(fit.values, truth, 1e-4)


@pytest.mark.slow
def test_a_thousand_replicates_take_seconds():
    rows = wide(rows=200, noise=0.01)
    fit = parametric.fit(rows)
    random = np.random.default_rng(0)
    begun = time.process_time()
    values = parametric.refit_many(fit, [rows.take(random.integers(200, size=200)) for _ in range(1000)])
    assert time.process_time() - begun < 40
    assert np.isfinite(values).all(axis=1).mean() > 0.99
