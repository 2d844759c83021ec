"""Optima at budgets of one's choice, and their intervals."""

import numpy as np
import pytest

from pretrainx.scaling import predictions
from pretrainx.scaling.fits import Cost, Fit
from pretrainx.scaling.presets import PRESETS

RANGE = ((1e7, 1e10), (1e9, 1e12), (1e17, 1e22))


def published(name, **more):
    preset = PRESETS[name]
    return Fit("parametric", preset.form, preset.values, range=RANGE, **more)


@pytest.mark.parametrize(
    ("name", "budget", "parameters", "tokens", "loss"),
    [
        ("hoffmann", 1.92e19, 306.1e6, 10.46e9, 2.862),
        ("hoffmann", 5.76e23, 32.19e9, 2.982e12, 1.931),
        ("hoffmann", 3.85e24, 75.91e9, 8.453e12, 1.870),
        ("besiroglu", 1.21e20, 941.1e6, 21.43e9, 2.529),
        ("besiroglu", 5.76e23, 72.25e9, 1.329e12, 1.974),
    ],
)
def test_optima_of_published_laws(name, budget, parameters, tokens, loss):
    found = predictions.best(published(name), [budget])[0]
    assert found.parameters == pytest.approx(parameters, rel=5e-4) and found.tokens == pytest.approx(tokens, rel=5e-4)
    assert found.loss == pytest.approx(loss, abs=6e-4)
    assert found.loss_interval is None and found.beyond == budget / 1e22


def test_a_real_cost_moves_the_optimum_along_it():
    factor = lambda size: 6 * size * (1 + 2e8 / size)  # small models pay for their head
    sizes = np.geomspace(1e7, 1e11, 60)
    fit = published("hoffmann", cost=Cost(points=tuple(zip(sizes.tolist(), factor(sizes).tolist(), strict=True))))
    size, tokens, loss = predictions.optimum(fit, 1e20)
    assert tokens * factor(size) == pytest.approx(1e20, rel=1e-3)
    around = size * np.array([0.97, 1.03])
    values = fit.values
    beside = values["E"] + values["A"] / around ** values["alpha"]
    beside += values["B"] / (1e20 / fit.cost.per_token(around)) ** values["beta"]
    assert (beside > loss).all()


def test_intervals_are_percentiles_of_replicates():
    values = PRESETS["hoffmann"].values
    random = np.random.default_rng(1)
    samples = np.tile(list(values.values()), (1000, 1))
    samples[:, 0] += 0.01 * random.standard_normal(1000)  # E
    fit = published("hoffmann", samples=samples)
    low, high = predictions.interval(fit, lambda values: values["E"])
    assert (low, high) == pytest.approx(tuple(np.quantile(samples[:, 0], (0.05, 0.95))))
    found = predictions.best(fit, [1e22])[0]
    assert found.loss_interval == pytest.approx((found.loss - 0.01645, found.loss + 0.01645), abs=1.5e-3)


def test_intervals_without_replicates_are_of_the_delta_method():
    spread = np.diag([0.02, 0, 0, 0, 0.0]) ** 2
    low, high = predictions.interval(published("hoffmann", covariance=spread), lambda values: 3 * values["E"])
    assert (low, high) == pytest.approx((5.07 - 3 * 0.0329, 5.07 + 3 * 0.0329), abs=1e-4)


@pytest.mark.parametrize("way", ["samples", "covariance"])
def test_a_new_run_is_less_certain_than_the_law(way):
    values = np.array(list(PRESETS["hoffmann"].values.values()))
    samples = np.tile(values, (1000, 1))
    samples[:, 0] *= np.exp(0.003 * np.random.default_rng(2).standard_normal(1000))
    given = {"samples": samples} if way == "samples" else {"covariance": np.diag([0.003 * values[0], 0, 0, 0, 0]) ** 2}
    found = predictions.best(published("hoffmann", **given), [1e22], noise=0.004)[0]
    half = lambda pair: np.log(pair[1] / pair[0]) / 2
    expected = np.hypot(half(found.loss_interval), 1.645 * 0.004)
    assert half(found.loss_reach) == pytest.approx(expected, rel=0.1)


def test_exponents_of_replicates():
    samples = np.array([[1.69, 406.4, 410.7, 0.34, 0.28], [1.69, 406.4, 410.7, 0.3, 0.3]])
    assert predictions.exponents(published("hoffmann", samples=samples), 1e20) == pytest.approx([0.28 / 0.62, 0.5])


def test_what_is_extrapolated_is_said():
    fit = published("hoffmann")
    assert predictions.extrapolated(fit, 1e9, 1e10, 1e20) == []
    size, budget = predictions.extrapolated(fit, parameters=1e6, budget=1e23)
    assert "10th of the least" in size and "10 times the most" in budget


def test_tokens_at_the_rule():
    size, tokens = predictions.at_rule(published("hoffmann"), 5.76e23)
    assert size == pytest.approx(69.28e9, rel=1e-3) and tokens == 20 * size


def test_all_replicates_at_once_are_each_alone():
    values = np.array(list(PRESETS["hoffmann"].values.values()))
    samples = values * np.exp(0.01 * np.random.default_rng(3).standard_normal((25, 5)))
    fit = published("hoffmann", samples=samples, cost=Cost(points=((1e8, 2e9), (1e9, 8e9), (1e10, 6e10))))
    found = predictions.along(fit, samples, [1e19, 1e22])
    alone = [predictions.along(fit, dict(zip(fit.values, one, strict=True)), [1e19, 1e22]) for one in samples]
    assert found.shape == (25, 6) and found == pytest.approx(np.array(alone), rel=1e-12)
    sizes, slopes = found[:, :2], predictions.exponents(fit, 1e20)
    assert (sizes[:, 1] > sizes[:, 0]).all() and slopes.shape == (25,)


def test_the_noise_of_a_new_run_is_known_or_a_dash():
    fit = published("hoffmann", samples=np.tile(list(PRESETS["hoffmann"].values.values()), (30, 1)))
    assert predictions.scatter(fit) is None and predictions.best(fit, [1e22])[0].loss_reach is None
    known = published("hoffmann", diagnostics={"scatter": {"loss": 0.01}})
    found = predictions.best(known, [1e22], noise=predictions.scatter(known))[0]
    assert np.log(found.loss_reach[1] / found.loss) == pytest.approx(0.01645, abs=1e-5)


def test_tokens_that_run_out_cost_loss():
    law = PRESETS["hoffmann"].values
    fit = Fit("parametric", "data_constrained", {**law, "rD": 15.4, "rN": 5.3}, range=RANGE)
    free, short = (predictions.best(fit, [1e21], unique=unique)[0] for unique in (None, 1e10))
    assert free.loss == pytest.approx(predictions.best(published("hoffmann"), [1e21])[0].loss)
    assert short.loss > free.loss + 0.01 and short.parameters < free.parameters  # epochs rather than size
    assert predictions.asks_unique(fit) and not predictions.asks_unique(published("hoffmann"))
