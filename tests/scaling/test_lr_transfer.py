"""What is said of the best rate over widths: minima, edges, near ties, drift, and whether wider is better."""

import numpy as np
import pytest

from pretrainx.cli.scaling_transfer import _numbers
from pretrainx.core.errors import ConfigError
from pretrainx.scaling.lr_transfer import Transfer, shown

RATES = tuple(2.0**power for power in range(-10, -4))


def valleys(places, depths=(2.0, 1.9, 1.8), steps=20):
    """Each width's loss over rates is a parabola with its minimum at a place; it falls over the steps by 1."""
    curves = [
        [
            [depth + 0.1 * (rate - place) ** 2 + 1 - step / (steps - 1) for step in range(steps)]
            for rate in range(len(RATES))
        ]
        for place, depth in zip(places, depths, strict=True)
    ]
    return Transfer((64, 128, 256), RATES, np.array(curves))


def test_same_or_adjacent_rates_pass():
    for places in ((3, 3, 3), (3, 3, 2), (2, 3, 3)):
        found = valleys(places)
        assert found.passes and list(found.best) == list(places) and found.verdict().startswith("PASS")


def test_drift_fails():
    found = valleys((3, 2, 1))
    assert not found.passes and found.drift == 2 and found.verdict().startswith("FAIL: the best rate moves by 2 places")


def test_minima_at_an_edge_fail():
    """The lowest of a list that ends there may lie beyond: no optimum was seen."""
    for edge in (0, 5):
        found = valleys((edge, edge, edge))
        assert not found.passes and found.edges == [64, 128, 256] and "edge of --rates" in found.verdict()
    assert "(at the edge)" in "\n".join(valleys((0, 1, 1)).lines())


def test_near_ties_are_told():
    found = valleys((3, 3, 3))
    found.curves[1, 2] = found.curves[1, 3] + 0.001
    assert found.ties(1) == [RATES[2]] and found.ties(0) == []
    assert "nearly as good: 2^-8" in found.lines()[2] and "nearly" not in found.lines()[1]


def test_diverged_runs_do_not_win():
    found = valleys((3, 3, 3))
    found.curves[:, 4:, 10:] = np.inf
    assert found.passes and not np.isfinite(found.reached[:, 4:]).any()


def test_wider_is_better():
    assert valleys((3, 3, 3)).wider_is_better() == [1.0, 1.0]
    assert valleys((3, 3, 3), (2.0, 2.1, 2.05)).wider_is_better() == [0.0, 1.0]
    diverged = valleys((3, 3, 3))
    diverged.curves[1:, 3, 10:] = np.inf  # what diverged is not as good as what diverged
    assert diverged.wider_is_better() == [0.5, 0.5]


@pytest.mark.parametrize("text", ["2^5000", "1e400", "2^-7,x", "0"])
def test_what_is_no_rate(text):
    with pytest.raises(ConfigError, match="--rates is a list of numbers above 0"):
        _numbers(text, "rates")


@pytest.mark.parametrize(("rate", "text"), [(2.0**-7, "2^-7"), (1e-3, "0.001"), (2.0, "2^1")])
def test_rates_in_words(rate, text):
    assert shown(rate) == text
