"""A fit in a file is the fit."""

import json

import numpy as np
import pytest

from pretrainx.core.errors import DataError
from pretrainx.scaling import fit_file
from pretrainx.scaling.fits import Cost, Dropped, Fit
from pretrainx.scaling.laws import FORMS
from scaling.synthetic import LAW


def a_fit():
    random = np.random.default_rng(0)
    return Fit(
        method="parametric",
        form="chinchilla",
        values={name: value * (1 + 1e-15) / 3 for name, value in LAW.items()},
        cost=Cost(6.0, ((1e7, 7e7 / 3), (1e8, 6.1e8))),
        samples=random.standard_normal((20, 5)),
        failures=3,
        covariance=random.standard_normal((5, 5)),
        options={"fixed": [["E", 1.5]], "residual": "huber", "delta": 1e-3},
        dropped=(Dropped(3, "nan", "residual", "far off"),),
        rows=17,
        range=((1e6, 1e8 / 3), (1e9, 1e10), (1e17, 1e19)),
        diagnostics={"condition": np.inf, "minima": [{"loss": np.nan, "used": False}], "notes": ["short"]},
        convention="matmul_causal",
        counted="hidden",
        unit="picture",
        source="results.jsonl",
        digest="0123",
    )


def test_round_trip_to_the_last_digit(tmp_path):
    fit = a_fit()
    path = fit_file.save(fit, tmp_path / "deep" / "fit.json")
    found = fit_file.load(path)
    for name in ("method", "form", "values", "cost", "failures", "options", "dropped", "rows", "range"):
        assert getattr(found, name) == getattr(fit, name), name
    for name in ("convention", "counted", "unit", "source", "digest"):
        assert getattr(found, name) == getattr(fit, name), name
    np.testing.assert_array_equal(found.samples, fit.samples)
    np.testing.assert_array_equal(found.covariance, fit.covariance)
    assert found.diagnostics["condition"] == np.inf and np.isnan(found.diagnostics["minima"][0]["loss"])
    for budget in (1e18, 1e21):
        one, other = (FORMS["chinchilla"].optimum(each.values, budget, each.cost) for each in (fit, found))
        assert [float(part) for part in one] == [float(part) for part in other]
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no NaN, no Infinity


def test_a_fit_without_intervals(tmp_path):
    found = fit_file.load(fit_file.save(Fit("parametric", "chinchilla", LAW), tmp_path / "fit.json"))
    assert found.samples.shape == (0, 5) and found.covariance is None and found.cost == Cost()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "values": {}}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(DataError, match="no file of a fit"):
        fit_file.load(tmp_path / "fit.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file of a fit"):
        fit_file.load(tmp_path / "fit.json")
