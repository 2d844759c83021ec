"""Overrides as text: products, lists, brackets and quotes."""

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.scaling import grid


def test_a_product():
    found = grid.product("schedule.peak=1e-3,3e-3; --config.model.width=64,128")
    assert found == [
        {"schedule.peak": 1e-3, "model.width": 64},
        {"schedule.peak": 1e-3, "model.width": 128},
        {"schedule.peak": 3e-3, "model.width": 64},
        {"schedule.peak": 3e-3, "model.width": 128},
    ]


def test_brackets_and_quotes_hold_together():
    found = grid.product("data.paths=('a,b',),('c',); model.norm='rms','layer'; ema.decay=0")
    assert [each["data.paths"] for each in found[::2]] == [("a,b",), ("c",)] and found[1]["model.norm"] == "layer"
    assert grid.overrides("a.b=(1, 2) c='x y'; d=true", "") == {"a.b": (1, 2), "c": "x y", "d": True}


def test_a_list(tmp_path):
    path = tmp_path / "runs.txt"
    path.write_text("# rates\n\nschedule.peak=1e-3 seed=1\nschedule.peak=3e-3\n")
    assert grid.lines(path) == [{"schedule.peak": 1e-3, "seed": 1}, {"schedule.peak": 3e-3}]
    path.write_text("seed=1\nseed=2\nseed=1\n")
    with pytest.raises(ConfigError, match="seed=1 is given twice"):
        grid.lines(path)
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="empty"):
        grid.lines(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        grid.lines(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("text", ["seed", "=1", "seed=", "a..b=1", "seed=1; seed=2", "seed=1,1"])
def test_what_is_no_grid(text):
    with pytest.raises(ConfigError) as caught:
        grid.product(text)
    assert caught.value.where == "config.study.grid"
