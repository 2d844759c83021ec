"""What a sweep came to: the best of the means over seeds, what stands at the edge, and the page's panel."""

import re

import pytest

from pretrainx.core.json_lines import encode
from pretrainx.scaling import manifest, outcome
from scaling import fake_runs


def sweep(directory, settings, kind="grid"):
    """A study whose runs have these (changes, loss or status)."""
    runs, rows = [], []
    for number, (changes, found) in enumerate(settings):
        run = fake_runs.run(f"r{number}")
        runs.append(manifest.Run(run.id, changes, run.config, run.facts))
        done = isinstance(found, float)
        rows.append({"run": run.id, "status": "done" if done else found, "loss": found if done else None})
    manifest.Manifest(kind, {}, {}, tuple(runs)).write(directory)
    (directory / "results.jsonl").write_text("".join(encode(row) + "\n" for row in rows))
    return directory


def test_means_over_seeds_and_no_luck(tmp_path):
    """The setting whose one seed diverged is not the best, though its other seed is the lowest of all."""
    rates = {1e-3: (3.0, 2.0), 3e-3: (2.25, 2.35), 1e-2: (1.0, "diverged")}
    settings = [
        ({"schedule.peak": rate, "seed": seed, "model.depth": 2}, found)
        for rate, both in rates.items()
        for seed, found in enumerate(both)
    ]
    found = outcome.outcome(sweep(tmp_path, settings))
    assert found.keys == ("schedule.peak",) and found.best.values == (3e-3,)
    text = outcome.lines(found)
    assert [line.split() for line in text] == [
        ["schedule.peak", "held_out/loss"],
        ["*", "0.003", "2.3000", "±0.0707"],
        ["0.001", "2.5000", "±0.7071"],
        ["0.01", "diverged"],
    ]
    assert "<svg" in outcome.panel(tmp_path) and "best: 0.003" in re.sub(r"<!--|-->", "", outcome.panel(tmp_path))


def test_the_edge_is_told(tmp_path):
    settings = [({"schedule.peak": rate}, loss) for rate, loss in ((1e-3, 3.0), (3e-3, 2.5), (1e-2, 2.25))]
    told = outcome.edges(outcome.outcome(sweep(tmp_path, settings)))
    assert told == ["schedule.peak: the best is the greatest that was tried, 0.01; try further ones"]
    settings[2] = (settings[2][0], 2.75)
    assert outcome.edges(outcome.outcome(sweep(tmp_path, settings))) == []


PAIRS = [
    ({"model.width": width, "optimizer.name": name}, 1.0 / width) for width in (64, 128) for name in ("adamw", "muon")
]
NAMES = [({"model.norm": name}, loss) for name, loss in (("rms", 2.0), ("layer", 2.5))]
THREE = [({"a": a, "b": b, "c": c}, a + b + c) for a in (1.0, 2.0, 3.0) for b in (0.5, 1.5) for c in (4.0, 8.0)]


@pytest.mark.parametrize("settings", [PAIRS, NAMES, THREE], ids=["a map", "names", "a line for each of the others"])
def test_every_kind_of_sweep_has_a_picture(tmp_path, settings):
    panel = outcome.panel(sweep(tmp_path, settings))
    assert panel.count("<svg") == 1 and panel.count("<tr") == len(settings) + 1 and panel.count("font-weight: 600") == 1


def test_other_studies_and_unfinished_sweeps_have_no_panel(tmp_path):
    assert outcome.panel(sweep(tmp_path / "a", PAIRS, kind="isoflop")) == ""
    assert outcome.panel(sweep(tmp_path / "b", [({"seed": 1, "a": 1}, "stopped"), ({"a": 2}, "failed")])) == ""
