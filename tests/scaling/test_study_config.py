"""The section `config.study`: budgets in their three forms, and what cannot be meant."""

import pytest

from pretrainx.core import config as strict
from pretrainx.core.errors import ConfigError
from pretrainx.scaling.rates import RATES
from pretrainx.scaling.study import StudyConfig, split


def test_budgets():
    assert StudyConfig(budgets=(3e12, 1e12)).flops() == (1e12, 3e12)
    assert StudyConfig(smallest=2e11, count=3, factor=3.0).flops() == (2e11, 6e11, 1.8e12)
    of_all = StudyConfig(total=4e15, count=4, factor=3.0, sizes=5).flops()
    assert 5 * sum(of_all) == pytest.approx(4e15, rel=1e-3) and of_all[3] / of_all[2] == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize(
    "given, where, why",
    [
        ({}, "budgets", "there are no budgets"),
        ({"budgets": (1e12,), "total": 1e13}, "budgets", "budgets, total"),
        ({"kind": "ladder"}, "parameters", "neither numbers of parameters nor shapes"),
        ({"kind": "grid"}, "grid", "neither is given"),
        ({"kind": "grid", "grid": "seed=1,2", "list": "x"}, "grid", "config.study.list is given"),
        ({"kind": "grid", "grid": "seed=1,2", "smallest": 1e12}, "smallest", "'grid' does not read smallest"),
        ({"kind": "grid", "grid": "seed=1,2", "warmup": 0.1}, "warmup", "does not read warmup"),
        ({"kind": "grid", "grid": "seed=1,2", "rate": RATES["mup"]()}, "rate", "does not read rate"),
        ({"kind": "grid", "grid": "seed=1,2", "evaluations": 3}, "evaluations", "does not read evaluations"),
        ({"kind": "ladder", "parameters": (1e6,), "sizes": 7, "guess": "besiroglu"}, "sizes", "read sizes, guess"),
        ({"smallest": 1e12, "multiples": (1.0,)}, "multiples", "'isoflop' does not read multiples"),
        ({"smallest": 1e12, "grid": "seed=1,2"}, "grid", "isoflop"),
        ({"smallest": 1e12, "rule": "list"}, "shapes", "0 shapes"),
        ({"smallest": 1e12, "seeds": (1, 1)}, "seeds", "(1, 1)"),
        ({"smallest": 1e12, "warmup": -0.5}, "warmup", "-0.5"),
    ],
)
def test_what_cannot_be_meant(given, where, why):
    with pytest.raises(ConfigError) as caught:
        StudyConfig(**given)
    assert caught.value.where == f"config.study.{where}" and why in f"{caught.value.what} {caught.value.why}"
    assert caught.value.do


def test_the_section_is_strict():
    run, study = split({"train": {"steps": 1}, "study": {"smallest": 1e12, "rate": {"name": "power", "rate": 0.1}}})
    assert run == {"train": {"steps": 1}} and study.rate.rate == 0.1
    assert strict.parse(StudyConfig, strict.as_dict(study)) == study
    assert split({"train": {}})[1] is None
    with pytest.raises(ConfigError, match="unknown key"):
        split({"study": {"smallest": 1e12, "budget": 3}})
