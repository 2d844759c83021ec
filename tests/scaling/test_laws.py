"""Laws: values, derivatives, optima, and what was published of them."""

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.scaling import fit_options, fitting, presets
from pretrainx.scaling.fits import Cost
from pretrainx.scaling.form import POWER
from pretrainx.scaling.laws import FORMS, PARAMETRIC, form

VALUES = {
    "chinchilla": {"E": 1.7, "A": 406.0, "B": 411.0, "alpha": 0.34, "beta": 0.28},
    "additive": {"E": 1.7, "Nc": 8.8e7, "Dc": 5.4e9, "aN": 0.3, "aD": 0.33},
    "kaplan": {"Nc": 6.4e13, "Dc": 1.8e13, "aN": 0.076, "aD": 0.103},
    "shared": {"E": 1.8, "a": 166.0, "b": 287.0, "eta": 0.27},
    "data_constrained": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.37, "rD": 15.4, "rN": 5.3},
}
N, D, U = 3e8, 4e10, 2e9


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chinchilla", 1.7 + 406 / N**0.34 + 411 / D**0.28),
        ("additive", 1.7 + (8.8e7 / N) ** 0.3 + (5.4e9 / D) ** 0.33),
        ("kaplan", ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103),
        ("shared", 1.8 + 166 * N**-0.27 + 287 * D**-0.27),
    ],
)
def test_formulas(name, expected):
    assert FORMS[name].loss(VALUES[name], N, D) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("name", PARAMETRIC)
def test_coordinates_and_derivatives(name):
    law = FORMS[name]
    theta = law.coordinates(VALUES[name])
    assert law.from_coordinates(theta) == pytest.approx(law.vector(VALUES[name]), rel=1e-10)
    random = np.random.default_rng(0)
    theta = theta + 0.02 * random.normal(size=(3, law.size))
    moving = list(range(law.size))
    if name == "data_constrained":
        theta[:, POWER] = 1.0
        moving.remove(POWER)
    x, y = random.uniform(16, 23, (1, 20)), random.uniform(20, 26, (1, 20))
    u = y - random.uniform(-1, 3, (1, 20))
    rows = random.normal(size=(3, 20))
    loss, by = law.gradient(theta, x, y, u)
    assert loss == pytest.approx(law.log_loss(theta, x, y, u), rel=1e-13)
    curvature = law.curvature(theta, by, rows, x, y, u)[:, moving][:, :, moving]
    for column, coordinate in enumerate(moving):
        step = 1e-6 * np.eye(law.size)[coordinate]
        above, below = (law.gradient(theta + sign * step, x, y, u) for sign in (1, -1))
        assert by[:, coordinate] == pytest.approx((above[0] - below[0]) / 2e-6, rel=1e-4, abs=1e-7)
        second = np.sum(rows[:, None] * (above[1] - below[1]), -1)[:, moving] / 2e-6
        assert curvature[:, column] == pytest.approx(second, rel=1e-3, abs=1e-4 * np.abs(second).max())


# Recomputed with independent code from the published constants: N*, D*, L* at C = 6 N D.
OPTIMA = [
    (1.92e19, (306.1e6, 10.46e9, 2.862), (366.3e6, 8.737e9, 2.805)),
    (1.21e20, (702.8e6, 28.69e9, 2.574), (941.1e6, 21.43e9, 2.529)),
    (1.23e22, (5.666e9, 361.8e9, 2.125), (10.06e9, 203.8e9, 2.129)),
    (5.76e23, (32.19e9, 2.982e12, 1.931), (72.25e9, 1.329e12, 1.974)),
    (3.85e24, (75.91e9, 8.453e12, 1.870), (191.3e9, 3.354e12, 1.929)),
]


@pytest.mark.parametrize(("budget", "hoffmann", "besiroglu"), OPTIMA)
def test_published_optima(budget, hoffmann, besiroglu):
    for name, expected in (("hoffmann", hoffmann), ("besiroglu", besiroglu)):
        assert presets.PRESETS[name].optimum(budget) == pytest.approx(expected, rel=5e-4)


def test_optimum_along_the_real_cost():
    values, budget = VALUES["chinchilla"], np.array([1e18, 1e21])
    law = FORMS["chinchilla"]
    closed = law.optimum(values, budget)
    same = law.optimum(values, budget, Cost(points=((1e7, 6e7), (1e9, 6e9))))
    assert np.array(same[:2]) == pytest.approx(np.array(closed[:2]), rel=1e-5)
    # Small models cost more for each parameter: attention and vocabulary.
    cost = Cost(points=((1e7, 2e8), (1e8, 1e9), (1e9, 7e9)))
    parameters, tokens, loss = law.optimum(values, budget, cost)
    assert cost.per_token(parameters) * tokens == pytest.approx(budget, rel=1e-12)
    for factor in (0.5, 0.98, 1.02, 2.0):
        assert np.all(law.loss(values, parameters * factor, budget / cost.per_token(parameters * factor)) > loss)
    many = np.stack([law.vector(values), law.vector(VALUES["chinchilla"] | {"E": 1.0})])
    assert law.optimum(many, 1e21)[0] == pytest.approx(np.full(2, closed[0][1]))


def test_an_optimum_far_beyond_the_measured_cost():
    """FLOPs per token rise as N^0.5: at C = 1e40 the best size is e^14 times that of a cost as N, where the search begins."""
    cost = Cost(points=tuple((size, 6e4 * size**0.5) for size in (1e7, 1e8, 1e9)))
    law, budget = {"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.3, "beta": 0.4}, np.array([1e20, 1e40])
    parameters, tokens, _ = FORMS["chinchilla"].optimum(law, budget, cost)
    # alpha A / N^alpha = 0.5 beta B / D^beta, where D = C / (6e4 N^0.5)
    assert parameters == pytest.approx((0.3 / 0.2 * (budget / 6e4) ** 0.4) ** (1 / (0.3 + 0.2)), rel=1e-4)
    assert tokens * cost.per_token(parameters) == pytest.approx(budget)


def test_data_constrained_as_published():
    law, values = FORMS["data_constrained"], presets.PRESETS["muennighoff"].values
    assert law.loss(values, 6.34e9, 242e9, 25e9) == pytest.approx(2.2256440889984477, rel=1e-15)
    assert law.loss(values, 8.67e9, 178e9, 25e9) == pytest.approx(2.2269634075087867, rel=1e-15)
    parameters, tokens, loss = law.optimum(values, 1e22, unique=25e9)
    assert parameters == pytest.approx(7022364735.88, rel=2e-3) and tokens == pytest.approx(237336955477.55, rel=2e-3)
    assert loss <= law.loss(values, 7022364735.88, 237336955477.55, 25e9)
    # More unique tokens than are seen are as good as seeing each once; fewer are worse.
    plain = FORMS["chinchilla"].loss({name: values[name] for name in FORMS["chinchilla"].names}, 2e8, 1e10)
    assert law.loss(values, 2e8, 1e10, np.array([1e12, 1e10])) == pytest.approx(np.full(2, plain))
    assert law.loss(values, 2e8, 1e10, 1e9) > plain


def test_the_mismatch_of_hoffmann_is_told():
    assert presets.PRESETS["hoffmann"].ratio() == pytest.approx(92.6, abs=0.1)
    assert "92.6 tokens per parameter; Chinchilla used 20" in presets.PRESETS["hoffmann"].told()
    assert presets.PRESETS["besiroglu"].ratio() == pytest.approx(18.4, abs=0.1)
    size, tokens, _ = presets.PRESETS["deepseek"].optimum(1e20)
    assert 6 * size * tokens == pytest.approx(1e20, rel=1e-3)


def test_names_are_checked():
    with pytest.raises(ConfigError, match="no law"):
        form("chinchila")
    with pytest.raises(ConfigError, match="E, A, B, alpha, beta"):
        FORMS["chinchilla"].loss({"E": 1.0, "A": 2.0, "B": 2.0, "alpha": 0.3}, 1e9, 1e9)


def test_each_law_and_method_can_be_chosen():
    assert fit_options.FORMS == tuple(PARAMETRIC) and set(fit_options.METHODS) == set(fitting.METHODS)
