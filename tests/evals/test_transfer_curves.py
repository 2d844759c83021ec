"""Curves over labels: gains of paired seeds, negative transfer, and how many labels a start saves."""

import numpy as np
import pytest
from scipy import stats

from pretrainx.core.errors import ConfigError
from pretrainx.evals.transfer import Curve, TransferConfig, compared, half_width, labels_for

LABELS = (10, 100, 1000)
SCRATCH = Curve(LABELS, np.array([[0.5, 0.52], [0.6, 0.62], [0.8, 0.82]]))


def test_interval_is_student_s():
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)


def test_labels_that_scratch_needs_for_the_same():
    assert labels_for(SCRATCH, 0.61) == pytest.approx(100)
    assert labels_for(SCRATCH, 0.71) == pytest.approx(10**2.5)  # half the way in accuracy, half in the logarithm
    assert labels_for(SCRATCH, 0.9) is None and labels_for(SCRATCH, 0.4) is None


def test_a_start_that_helps_and_one_that_harms():
    """Seeds are paired: a difference that is the same in both is certain, however far apart the seeds are."""
    spread = np.array([0.0, 0.2])
    scratch = Curve(LABELS, SCRATCH.values + spread)
    better = Curve(LABELS, scratch.values + 0.1 + np.array([-1e-4, 1e-4]))
    found = compared(better, scratch, "accuracy")
    assert (
        found["gain/100"] == pytest.approx(0.1) and found["gain/100/interval"] < 0.002 < found["accuracy/100/interval"]
    )
    assert found["scratch/accuracy/100"] == pytest.approx(scratch.means[1]) and found["negative/100"] == 0
    assert found["labels_ratio/100"] == pytest.approx(10**0.5, rel=1e-6) and "labels_ratio/1000" not in found
    worse = compared(scratch, better, "accuracy")
    assert worse["negative/10"] == worse["negative/1000"] == 1 and worse["gain/10"] == pytest.approx(-0.1)
    noisy = compared(Curve(LABELS, scratch.values - np.array([0.2, 0.0])), scratch, "accuracy")
    assert noisy["gain/10"] < 0 and noisy["negative/10"] == 0, "two seeds that disagree prove nothing"


def test_without_scratch_there_is_nothing_to_compare():
    assert set(compared(SCRATCH, None, "f1")) == {f"f1/{m}{end}" for m in LABELS for end in ("", "/interval")}


@pytest.mark.parametrize("labels", [(), (10, 10), (30, 10)])
def test_numbers_of_labels_must_rise(labels):
    with pytest.raises(ConfigError, match="do not rise"):
        TransferConfig(labels=labels)
