"""Questions the other way round have the answers that the law gives, or a reason why there are none."""

from dataclasses import replace

import numpy as np
import pytest

from pretrainx.cli.main import main
from pretrainx.core.errors import DataError
from pretrainx.scaling import answers, fit_file, inverse, predictions
from pretrainx.scaling.fits import Fit
from pretrainx.scaling.presets import PRESETS

RANGE = ((1e7, 1e10), (1e9, 1e12), (1e17, 1e22))
HOFFMANN = Fit("parametric", "chinchilla", PRESETS["hoffmann"].values, range=RANGE)
KAPLAN = Fit("parametric", "kaplan", PRESETS["kaplan"].values, range=RANGE)
FRONTIER = Fit(
    "isoflop", "frontier", dict(log_n=20.0, a=0.5, log_d=23.0, b=0.5, E=1.7, A=1.0, g=0.15, C0=1e20), range=RANGE
)


@pytest.mark.parametrize("fit", [HOFFMANN, KAPLAN, FRONTIER], ids=lambda fit: fit.form)
@pytest.mark.parametrize("budget", [1e14, 5.76e23])
def test_a_budget_for_a_loss(fit, budget):
    assert inverse.budget_for(fit, float(predictions.optimum(fit, budget)[2])) == pytest.approx(budget, rel=1e-8)


def test_tokens_and_sizes_for_a_loss():
    loss = inverse.loss_at(HOFFMANN, 70e9, 1.4e12)
    assert inverse.tokens_for(HOFFMANN, 70e9, loss) == pytest.approx(1.4e12, rel=1e-8)
    assert inverse.parameters_for(HOFFMANN, 1.4e12, loss) == pytest.approx(70e9, rel=1e-8)


@pytest.mark.parametrize(
    ("ask", "least"),
    [
        (lambda: inverse.budget_for(HOFFMANN, 1.69), "1.69"),
        (lambda: inverse.tokens_for(HOFFMANN, 1e7, 2.0), "3.38"),  # 1.69 + 406.4 / 1e7^.34
        (lambda: inverse.parameters_for(HOFFMANN, 1e9, 2.0), "2.93"),  # 1.69 + 410.7 / 1e9^.28
        (lambda: inverse.budget_for(FRONTIER, 1.5), "1.7"),
        (lambda: inverse.budget_for(replace(FRONTIER, values={**FRONTIER.values, "g": 1e-4}), 4.0), "so flat"),
    ],
)
def test_what_is_out_of_reach_is_refused(ask, least):
    with pytest.raises(DataError, match=least):
        ask()


def test_a_frontier_has_no_other_sizes():
    for ask in (
        lambda: inverse.loss_at(FRONTIER, 1e9, 1e10),
        lambda: inverse.others(FRONTIER, 1e20),
        lambda: inverse.served(FRONTIER, 2.5, 1e12),
    ):
        with pytest.raises(DataError, match="frontier"):
            ask()


def test_other_sizes_cost_what_the_law_says():
    for one in inverse.others(HOFFMANN, 1e21):
        assert 6 * one.parameters * one.tokens == pytest.approx(1e21)
        assert (one.cost, one.same) == (pytest.approx(0, abs=1e-12), pytest.approx(1e21)) if one.factor == 1 else True
        assert one.cost >= -1e-12 and one.same >= 1e21 * (1 - 1e-9)
        if np.isfinite(one.same):
            at = inverse.loss_at(HOFFMANN, one.parameters, one.same / 6 / one.parameters)
            assert at == pytest.approx(float(predictions.optimum(HOFFMANN, 1e21)[2]))
    assert inverse.others(HOFFMANN, 1e21, [1000.0])[0].same == np.inf


def test_the_size_to_serve_is_the_least_of_all_that_reach_the_loss():
    budget, inference = 1e21, 1e12
    loss, best = float(predictions.optimum(HOFFMANN, budget)[2]), float(predictions.optimum(HOFFMANN, budget)[0])
    sizes = np.geomspace(best / 4, best * 1.2, 4000)
    left = loss - 1.69 - 406.4 / sizes**0.34
    sizes, left = sizes[left > 0], left[left > 0]
    spent = 6 * sizes * (410.7 / left) ** (1 / 0.28) + 2 * sizes * inference
    one = inverse.served(HOFFMANN, loss, inference)
    assert one.total == pytest.approx(spent.min(), rel=1e-5)
    assert one.parameters == pytest.approx(sizes[np.argmin(spent)], rel=0.01)
    assert one.inference == pytest.approx(2 * one.parameters * inference)
    assert one.saved == pytest.approx(1 - one.total / (budget + 2 * best * inference), rel=1e-6)
    assert inverse.served(HOFFMANN, loss, 1.0).parameters == pytest.approx(best, rel=1e-3)


DATA = Fit("parametric", "data_constrained", {**PRESETS["hoffmann"].values, "rD": 15.4, "rN": 5.3}, range=RANGE)


def test_a_loss_of_few_tokens_takes_more():
    free, short = (inverse.budget_for(DATA, 2.3, unique) for unique in (None, 1e10))
    assert short > 2 * free and predictions.optimum(DATA, short, 1e10)[2] == pytest.approx(2.3)
    tokens = inverse.tokens_for(DATA, 4e9, 2.3, 1e10)
    assert inverse.loss_at(DATA, 4e9, tokens, 1e10) == pytest.approx(2.3) and tokens > 1e10
    with pytest.raises(DataError, match="no number of tokens"):
        inverse.tokens_for(DATA, 4e9, 2.0, 1e10)
    assert inverse.others(DATA, 1e21, [1.0], 1e10)[0].loss > inverse.others(DATA, 1e21, [1.0])[0].loss
    one = inverse.served(DATA, 2.3, 1e11, 1e10)
    assert inverse.loss_at(DATA, one.parameters, one.tokens, 1e10) == pytest.approx(2.3)
    said = ["\n".join(answers.lines(DATA, answers.Questions((1e21,), unique=unique))) for unique in (None, 1e10)]
    assert "of unlimited unique tokens" in said[0] and "of 10.0B unique tokens" in said[1] and "2.3876" in said[1]


def test_budgets_for_a_loss_of_all_replicates_at_once():
    spread = np.exp(0.02 * np.random.default_rng(0).standard_normal((20, 5)))
    fit = replace(HOFFMANN, samples=np.array(list(HOFFMANN.values.values())) * spread)
    fit.samples[0, 0] = 2.3  # this one's E is above the loss
    found = inverse.log_budgets(fit, 2.2)
    assert np.isnan(found[0]) and not np.isnan(found[1:]).any()
    for one, log_c in list(zip(fit.samples, found, strict=True))[1:4]:
        own = inverse.budget_for(replace(fit, values=dict(zip(fit.values, one, strict=True))), 2.2)
        assert log_c == pytest.approx(np.log(own))
    said = next(line for line in answers.lines(fit, answers.Questions(loss=2.2)) if "takes" in line)
    assert " .. " in said and "nan" not in said


def test_the_size_and_tokens_that_were_asked_for_are_what_is_served():
    asked = answers.Questions(parameters=7e9, tokens=1.4e11, inference=1e12)
    text = "\n".join(answers.lines(HOFFMANN, asked))
    assert f"\n{inverse.loss_at(HOFFMANN, 7e9, 1.4e11):.5g} " in text


def test_answers_are_told():
    asked = answers.Questions((1e21, 1e23), loss=2.2, inference=1e12)
    text = "\n".join(answers.lines(HOFFMANN, asked))
    assert "a loss of 2.2 takes" in text and "N* / 4" in text and "20 tokens per N" in text and "serve 1.0T" in text
    assert "C = 1e+23 is 10 times the most that was fitted" in text
    text = "\n".join(answers.lines(HOFFMANN, answers.Questions(parameters=70e9, tokens=1.4e12)))
    assert "5.88e+23 FLOPs: loss 1.936" in text and "N = 70.0B is 7 times" in text
    assert "other sizes at a budget are not known" in "\n".join(answers.lines(FRONTIER, answers.Questions((1e20,))))


@pytest.mark.parametrize(
    ("fit", "flags", "said"),
    [
        (HOFFMANN, ["--inference=1e9"], "cheapest to train and to serve 1.0B"),
        (HOFFMANN, ["--parameters=1e9"], "N 1.0B with D"),
        (HOFFMANN, ["--tokens=1e10"], "with D 10.0B"),
        (HOFFMANN, ["--tokens=1e10", "--output=next.json"], "--tokens and --output do not go together"),
        (HOFFMANN, ["--unique=1e9"], "takes each token as a new one"),
        (DATA, ["--unique=1e9"], "of 1.0B unique tokens"),
    ],
)
def test_the_command_answers_or_refuses(tmp_path, capsys, fit, flags, said):
    fit_file.save(fit, tmp_path / "fit.json")
    code = main(["scaling", "predict", f"--fit={tmp_path / 'fit.json'}", *flags])
    out, err = capsys.readouterr()
    assert said in (out if code == 0 else err) and (code == 0) == ("not go" not in said and "as a new" not in said)
