"""Rules of learning rate and batch, against figures worked by hand from their sources."""

from types import SimpleNamespace

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.optim.schedules import SCHEDULES
from pretrainx.scaling.rates import Cell, Constant, DeepSeek, Marin, Mup, Power, warmup_of


def cell(width=1024, rows=128, rate=3e-3, **facts):
    recipe = SimpleNamespace(
        model=SimpleNamespace(width=width),
        train=SimpleNamespace(batch_size=rows),
        schedule=SimpleNamespace(peak=rate),
    )
    known = dict(parameters=1e6, flops=1e20, tokens=2e7, units_per_row=4096.0) | facts
    return Cell(recipe, **known)


def test_constant():
    assert Constant().changes(cell()) == {} == Constant().base({})


def test_marin():
    """.33 sqrt(128) / 1024; at width 256 that is above 0.01, and the batch is halved twice; then it is 64."""
    assert Marin().changes(cell()) == {
        "train.batch_size": 128,
        "schedule.peak": pytest.approx(3.6460e-3, rel=1e-4),
        "optimizer.b2": pytest.approx(0.98),
    }
    narrow = Marin().changes(cell(width=256))
    assert narrow["train.batch_size"] == 32 and narrow["schedule.peak"] == pytest.approx(0.33 * 32**0.5 / 256)
    assert narrow["optimizer.b2"] == pytest.approx(0.98**0.25)
    # 2^16 steps of 4,096 tokens: D / 2^28 rows, to the next power of two.
    many = Marin(steps=2**16).changes(cell(width=4096, tokens=100 * 2.0**28))
    assert many["train.batch_size"] == 128
    with pytest.raises(ConfigError, match="no batch"):
        Marin().changes(cell(width=32))


def test_deepseek():
    """0.3118 C^-0.125 and 0.2920 C^0.3271 tokens at C = 1e20."""
    found = DeepSeek().changes(cell(unit_of_batch=8))
    assert found["schedule.peak"] == pytest.approx(0.3118 * 10**-2.5)
    assert found["train.batch_size"] == round(0.2920 * 10**6.542 / 4096 / 8) * 8 == 248
    assert "train.batch_size" not in DeepSeek(batch=0.0).changes(cell())


def test_power():
    rule = Power(parameters=1e6, tokens=2e7, rate_exponent=-0.25, batch_exponent=0.5, batch_rate_exponent=0.5)
    assert rule.changes(cell()) == {"train.batch_size": 128, "schedule.peak": pytest.approx(3e-3)}
    larger = rule.changes(cell(parameters=16e6, tokens=32e7))
    assert larger == {"train.batch_size": 512, "schedule.peak": pytest.approx(3e-3 / 2 * 2)}
    assert Power(rate=0.1, batch=4.0).changes(cell(unit_of_batch=8))["train.batch_size"] == 8


def test_mup():
    stack = SimpleNamespace(width=64, depth=4, base_width=0, base_depth=0)
    assert Mup().base({"model": stack}) == {"model.base_width": 64}
    assert Mup(depth=True).base({"model": stack}) == {"model.base_width": 64, "model.base_depth": 4}
    stack.base_width = 32
    assert Mup().base({"model": stack}) == {"model.base_width": 32}
    for sections in ({"model": SimpleNamespace(width=8)}, {"model.image": stack, "model.text": stack}):
        with pytest.raises(ConfigError, match="muP"):
            Mup().base(sections)


def test_warm_up():
    cosine = SCHEDULES["cosine"]()
    assert warmup_of(0.05, 1000, 2048, cosine) == {"schedule.warmup": 50}
    assert warmup_of(204_800, 1000, 2048, cosine) == {"schedule.warmup": 100}
    assert warmup_of(1e9, 1000, 2048, cosine) == {"schedule.warmup": 999}
    assert warmup_of(0.0, 1000, 2048, SCHEDULES["inverse_sqrt"]()) == {"schedule.warmup": 1}
    assert warmup_of(-1.0, 1000, 2048, cosine) == {} == warmup_of(0.1, 1000, 2048, SCHEDULES["slanted_triangular"]())
