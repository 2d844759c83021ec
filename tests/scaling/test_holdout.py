"""Predictions of budgets that the fit has not seen, beside what is said without a law."""

from dataclasses import replace

import numpy as np
import pytest

from pretrainx.core.errors import DataError
from pretrainx.scaling import holdout
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.table import table
from scaling.synthetic import LAW, isoflop

LAST = 1e20
QUICK = FitOptions(starts=20, replicates=0)
ISOFLOP = FitOptions(method="isoflop", replicates=40)


def test_a_law_without_noise_predicts_its_next_budget():
    rows = isoflop(sizes=9)
    found = holdout.hold_out(rows, QUICK)
    least = (
        LAW["E"]
        + (LAW["A"] / rows.parameters ** LAW["alpha"] + LAW["B"] / rows.tokens ** LAW["beta"])[
            rows.budget == LAST
        ].min()
    )
    assert found.how == "minimum" and found.actual == pytest.approx(least, rel=3e-3)
    assert abs(found.error()) < 2e-3 and found.fit.rows == 36  # the parabola's own bias, and no more
    assert found.error(found.last) > 0.05 and found.share < 0.05
    assert found.gap == pytest.approx(found.last - found.actual) and set(found.runs) == {str(i) for i in range(36, 45)}


def test_what_is_held_out_has_no_part_in_what_is_said_of_it():
    rows = isoflop(noise=0.002)
    other = replace(rows, loss=np.where(rows.budget == LAST, 1.5 * rows.loss, rows.loss))
    ours, theirs = (holdout.hold_out(some, ISOFLOP) for some in (rows, other))
    assert (ours.predicted, ours.low, ours.high, ours.last) == (theirs.predicted, theirs.low, theirs.high, theirs.last)
    assert theirs.actual == pytest.approx(1.5 * ours.actual) and ours.rule == theirs.rule
    assert ours.low < ours.predicted < ours.high and ours.half_width < 0.03 and not theirs.inside


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("options", [ISOFLOP, replace(QUICK, replicates=40)], ids=["isoflop", "parametric"])
def test_intervals_hold_as_often_as_they_say(options):
    """At 90 % about 9 of 10 hold; of 40 draws from a law and 40 replicates each, 30 is far below."""
    found = [holdout.hold_out(isoflop(noise=0.003, seed=seed), replace(options, seed=seed)) for seed in range(40)]
    assert sum(one.inside for one in found) >= 30
    assert np.median([one.share for one in found]) < 0.1


def test_a_ladder_holds_no_budget_out():
    """A rung is one size: what is best at its C is not known, however exact the law is."""
    sizes = np.geomspace(1e7, 1e9, 5)
    rows = table(np.repeat(sizes, 3), np.tile([1e9, 4e9, 16e9], 5), np.linspace(4, 3, 15))
    with pytest.raises(DataError, match="it has 1 size, such as a ladder's"):
        holdout.hold_out(rows, QUICK)
    assert holdout.roll(rows, QUICK) == []


def test_rolling_forward_predicts_each_budget_that_has_enough_below_it():
    rows = isoflop()
    assert [one.budget for one in holdout.roll(rows, ISOFLOP)] == pytest.approx([3e19, 1e20])
    assert [one.budget for one in holdout.roll(rows, QUICK)] == pytest.approx([1e19, 3e19, 1e20])
    assert holdout.roll(rows.take(rows.budget < 5e18), ISOFLOP) == []
    with pytest.raises(DataError, match="nothing to hold"):
        holdout.hold_out(rows.take(rows.budget < 5e18), ISOFLOP)


def test_the_baseline_of_the_rule_draws_a_line_through_its_own_losses():
    """Losses whose valley is at another ratio: at D = 20 N they are 9 C^-0.04, and 0.5 % lower at the best ratio."""
    parts = []
    for budget in (1e18, 3e18, 1e19, 3e19):
        rule = np.sqrt(budget / 120)
        size = rule * np.geomspace(1 / 5, 5, 7)
        valley = 0.02 * (np.log(size / rule) - 0.5) ** 2 - 0.02 * 0.25
        parts.append((size, budget / (6 * size), 9 * budget**-0.04 + valley, np.full(7, budget)))
    size, tokens, loss, budget = map(np.concatenate, zip(*parts, strict=True))
    found = holdout.hold_out(table(size, tokens, loss, budget=budget), ISOFLOP)
    assert found.rule == pytest.approx(9 * 3e19**-0.04, rel=1e-9)
    assert found.actual == pytest.approx(found.rule - 0.005, rel=1e-6)
    assert found.last == pytest.approx(9 * 1e19**-0.04 - 0.005, rel=1e-6)


def test_without_a_minimum_the_best_run_is_what_was_reached():
    rows = isoflop(sizes=9)
    best = rows.parameters[rows.budget == LAST][5]
    some = rows.take((rows.budget < LAST) | (rows.parameters >= best))
    found = holdout.hold_out(some, ISOFLOP)
    assert (found.how, found.actual) == ("best run", some.loss[some.budget == LAST].min())


@pytest.mark.slow
@pytest.mark.rotated
def test_the_choice_is_of_what_predicts_inside_the_table():
    rows = isoflop(noise=0.001)
    wrong = replace(QUICK, fixed=(("E", 0.5),))
    chosen, scores = holdout.choose(rows, (wrong, QUICK))
    assert chosen == QUICK and [count for _, _, count in scores] == [3, 3] and scores[0][1] > scores[1][1]


def test_a_row_tells_the_errors_of_all_three():
    found = holdout.hold_out(isoflop(noise=0.001), ISOFLOP)
    cells = dict(zip(holdout.HEADER, holdout.row(found), strict=True))
    assert cells["error"] == f"{found.error():+.2%}" and cells["last point"] == f"{found.error(found.last):+.2%}"
    assert cells["inside"] in ("yes", "no") and cells["actual"].endswith("(minimum)")
