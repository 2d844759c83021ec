"""The time of a run that was killed and went on, worked out by hand; and the panel that shows it."""

import json

import pytest

from pretrainx.report.bars import COLOURS, panel
from pretrainx.report.goodput import PARTS, attempts, between, goodput, total
from pretrainx.report.page import write
from pretrainx.report.read import read_run
from pretrainx.training import breakdown


def line(step, time, **parts):
    return {"step": step, "time": time, "train/loss": 1.0, "wall": 1.0} | {
        f"perf/seconds/{part}": parts[part] for part in parts
    }


# The first process trains 30 steps of which 20 are saved, and is killed; the second goes on 100 seconds later.
EVENTS = [
    {"kind": "start", "time": 1010.0, "step": 0, "seconds": 10.0},
    {"kind": "first_step", "time": 1015.0, "step": 1},
    {"kind": "saved", "time": 1036.0, "step": 20},
    {"kind": "saving", "time": 1047.0, "step": 30},
    {"kind": "resumed", "time": 1149.0, "step": 20},
    {"kind": "start", "time": 1150.0, "step": 20, "seconds": 3.0},
    {"kind": "seconds", "time": 1180.0, "step": 40, "save": 2.0, "eval": 1.0},
    {"kind": "done", "time": 1181.0, "step": 40},
]
LINES = [
    line(12, 1026.0, start=11.0, compile=4.0, device=9.0, host=1.0, data=0.5, log=0.5),
    line(24, 1040.0, device=9.0, host=1.0, data=1.0, log=1.0, save=2.0),  # of steps 13 to 24 a third is lost
    line(30, 1046.0, device=5.0, host=0.5, log=0.5),  # all of it is
    {"step": 30, "eval/held_out/loss": 1.0},
    line(32, 1166.0, start=4.0, compile=5.0, device=9.0, host=1.0),
    line(40, 1177.0, device=10.0, host=0.5, data=0.5),
]


def test_a_run_that_was_killed_and_went_on():
    first, second = attempts(LINES, EVENTS)
    assert (first.began, first.ended, first.first, first.last) == (1000.0, 1047.0, 0, 30)
    assert (second.began, second.ended, second.first, second.last) == (1147.0, 1181.0, 20, 40)
    expected = {"start": 11.0, "compile": 4.0, "device": 15.0, "host": 1 + 2 / 3, "data": 0.5 + 2 / 3, "save": 2.0}
    expected |= {"log": 0.5 + 2 / 3, "lost": 12 / 3 + 6.0, "other": 1.0}
    assert first.seconds == pytest.approx(dict.fromkeys(PARTS, 0.0) | expected)
    assert second.seconds["other"] == pytest.approx(1.0) and second.seconds["lost"] == 0
    assert sum(first.seconds.values()) == pytest.approx(47.0) and sum(second.seconds.values()) == pytest.approx(34.0)
    good = (15 + 1 + 2 / 3) + (19 + 1.5)
    assert goodput([first, second]) == pytest.approx(good / 81) and between([first, second]) == pytest.approx(100.0)
    assert total([first, second])["device"] == pytest.approx(34.0)


def test_steps_that_a_third_start_takes_back_from_the_first():
    """The second start got no further than where it began, and the third began before it."""
    events = [
        {"kind": "start", "time": 10.0, "step": 0, "seconds": 0.0},
        {"kind": "start", "time": 30.0, "step": 10, "seconds": 1.0},
        {"kind": "start", "time": 50.0, "step": 5, "seconds": 1.0},
    ]
    lines = [line(10, 20.0, device=10.0), line(10, 60.0, device=5.0, start=5.0)]
    found = attempts(lines, events)
    assert [attempt.seconds["device"] for attempt in found] == [5.0, 0.0, 5.0] and found[0].seconds["lost"] == 5.0
    assert [attempt.last for attempt in found] == [10, 10, 10]


def test_a_run_that_books_no_time_has_no_panel(tmp_path):
    assert attempts([{"step": 1, "perf/mfu": 0.1}], [{"kind": "start", "time": 1.0, "step": 0}]) == []
    assert goodput([]) is None and panel([]) == ""


def test_the_parts_are_those_that_are_booked():
    assert set(breakdown.PARTS) == set(PARTS) - {"lost", "other"} == set(COLOURS) - {"lost", "other"}


def workdir(path, events=EVENTS):
    path.mkdir()
    (path / "config.json").write_text("{}")
    for name, records in (("metrics.jsonl", LINES), ("events.jsonl", events)):
        (path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_panel_of_one_run_and_of_two(tmp_path):
    one, other = workdir(tmp_path / "one"), workdir(tmp_path / "other<b>", EVENTS[5:])
    text = panel([read_run(one)])
    assert "start 1, steps 0 to 30" in text and "start 2, steps 20 to 40" in text and "goodput 45.9%" in text
    assert text.count('class="bar"') == 3 and "2 starts, with 1m40s between them" in text
    assert "device 42.0%" in text and "<td>34s</td><td>42.0%</td>" in text and "Goodput is the share" in text
    page = write(tmp_path / "both.html", [one, other]).read_text()
    section = page[page.index("<h2>Time") : page.index("<h2>Events")]
    assert section.count('class="bar"') == 2 and "other&lt;b&gt;, goodput" in section and "profile" not in section
    assert "<th>goodput</th>" in page and "45.9%" in page
