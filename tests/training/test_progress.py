"""The progress line and its numbers."""

import math

import pytest

from pretrainx.core.readable import size
from pretrainx.training.progress import duration, line, quantity

FACTS = dict(step=1200, steps=20000, loss=3.2141, grad_norm=0.871, learning_rate=3e-4, rate=41234.0, rate_unit="tok/s")


def test_the_line_is_exactly_this():
    assert line(**FACTS, mfu=0.381, data_wait=0.004, eta_seconds=11520) == (
        "step 1200/20000 6.0% | loss 3.214 | gnorm 0.87 | lr 3.0e-4 | 41.2k tok/s | mfu 38.1% | data 0.4% | eta 3h12m"
    )


def test_optional_parts():
    text = line(**FACTS, mfu=None, data_wait=0.0, eta_seconds=None, memory_bytes=int(11.2 * 2**30))
    assert text.endswith("| 41.2k tok/s | data 0.0% | mem 11.2G | eta ?")
    both = (int(11.2 * 2**30), int(15.8 * 2**30))
    assert "| mem 11.2/15.8G |" in line(**FACTS, mfu=0.5, data_wait=0.0, eta_seconds=1, memory_bytes=both)


@pytest.mark.parametrize(
    "loss, grad_norm, learning_rate, shown",
    [
        (math.nan, math.inf, 0.0, "loss nan | gnorm inf | lr 0 |"),
        (0.00042, 0.0031, 1.2e-10, "loss 4.2e-4 | gnorm 3.1e-3 | lr 1.2e-10 |"),
        (0.0, 123456.0, 1.0, "loss 0.000 | gnorm 1.2e5 | lr 1.0e0 |"),
        (-2.5, 12.345, 0.02, "loss -2.500 | gnorm 12.35 | lr 2.0e-2 |"),
    ],
)
def test_unusual_numbers_stay_readable(loss, grad_norm, learning_rate, shown):
    facts = {**FACTS, "loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
    assert shown in line(**facts, mfu=None, data_wait=0.0, eta_seconds=5)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (45, "45s"),
        (59.6, "1m00s"),
        (725, "12m05s"),
        (3599.7, "1h00m"),
        (11520, "3h12m"),
        (3600 * 24 - 10, "1d00h"),
        (3600 * 51, "2d03h"),
        (math.inf, "?"),
        (math.nan, "?"),
        (-1, "?"),
        (None, "?"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (950, "950"),
        (0.5231, "0.523"),
        (12.34, "12.3"),
        (123.4, "123"),
        (999.96, "1.0k"),
        (41200, "41.2k"),
        (999_960, "1.0M"),
        (124_439_808, "124.4M"),
        (1.3e9, "1.3B"),
        (2.5e15, "2500.0T"),
        (-41200, "-41.2k"),
        (math.nan, "nan"),
    ],
)
def test_quantity(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize(
    "count, text",
    [(0, "0.00 MiB"), (2**20, "1.00 MiB"), (2**26, "64.00 MiB"), (2**27, "0.12 GiB"), (2**41, "2,048.00 GiB")],
)
def test_bytes(count, text):
    assert size(count) == text
