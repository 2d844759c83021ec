"""From a fit and a budget to a config that trains."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pretrainx.cli.config_file import load
from pretrainx.cli.main import main
from pretrainx.core.errors import ConfigError
from pretrainx.runs import recipe as recipes
from pretrainx.scaling import fit_file, manifest, next_config
from pretrainx.scaling.fits import Cost, Fit
from pretrainx.scaling.plan import plan

VALUES = {"E": 0.55, "A": 8.0, "B": 30.0, "alpha": 0.3, "beta": 0.33}


def law(study, **more):
    """A fit of the study's own sizes and costs."""
    facts = [run.facts for run in study.runs]
    costs = {run["parameters"]["total"]: run["flops"] / run["tokens"] for run in facts}
    span = lambda values: (float(min(values)), float(max(values)))
    ranges = (span(costs), span([run["tokens"] for run in facts]), span([run["flops"] for run in facts]))
    known = dict(
        convention="model", digest="0123456789abcdef", range=ranges, cost=Cost(points=tuple(sorted(costs.items())))
    )
    return Fit("parametric", "chinchilla", VALUES, **{**known, **more})


@pytest.mark.slow
def test_the_next_run_trains(tmp_path, capsys):
    config = load(f"{Path(__file__).parents[2]}/configs/scaling/smiles.py:smoke")
    study = plan(config, tmp_path / "study", say=lambda line: None)
    fit = law(study)
    fit_file.save(fit, tmp_path / "study" / fit_file.NAME)
    budget = 2 * fit.range[2][1]
    with pytest.raises(ConfigError, match="count differently"):
        next_config.next_run(study, law(study, convention="6nd"), budget, tmp_path / "study")

    power = dict(log_n=10.0, a=0.5, log_d=13.0, b=0.5, E=0.5, A=1.0, g=0.1, C0=budget)
    frontier = replace(fit, method="isoflop", form="frontier", values=power)
    least = study.runs[0].facts["parameters"]["total"]
    off = next_config.next_run(study, frontier, budget, tmp_path / "study", least)
    assert np.isnan(off.loss) and off.run.facts["predicted_loss"] is None
    assert any("a frontier says no loss of other sizes" in note for note in off.notes)

    output = tmp_path / "next.json"
    asked = [f"--workdir={tmp_path / 'study'}", f"--budget={budget}", f"--output={output}"]
    assert main(["scaling", "predict", f"--fit={tmp_path / 'study' / fit_file.NAME}", *asked[1:]]) == 2  # no study
    (tmp_path / "study" / "results.jsonl").write_text(
        "".join(
            json.dumps({"run": run.id, "status": "done", "loss": 1.0, "parameters": run.facts["parameters"]["total"]}
                       | {name: run.facts[name] for name in ("tokens", "flops", "budget", "convention", "unit")}) + "\n"
            for run in study.runs
        )
    )  # fmt: skip
    assert main(["scaling", "predict", *asked]) == 0
    assert "next run" in capsys.readouterr().out
    facts = json.loads(output.with_suffix(".facts.json").read_text())
    recipe = recipes.parse(load(str(output)))
    assert facts["flops"] == pytest.approx(budget, rel=0.02) and facts["fit"]["digest"] == fit.digest
    assert abs(np.log(facts["parameters"]["total"] / facts["predicted"]["parameters"])) < 0.3
    assert facts["steps"] == recipe.train.steps and facts["config"] == manifest.identity(json.loads(output.read_text()))
    expected = VALUES["E"] + VALUES["A"] / facts["parameters"]["total"] ** 0.3 + VALUES["B"] / facts["tokens"] ** 0.33
    assert facts["predicted_loss"] == pytest.approx(expected)
    assert (
        main(
            [
                "train",
                f"--config={output}",
                f"--workdir={tmp_path / 'run'}",
                "--config.train.steps=3",
                "--config.schedule.warmup=1",
            ]
        )
        == 0
    )
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any(record["step"] == 3 for record in records)
