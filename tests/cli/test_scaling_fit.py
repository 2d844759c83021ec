"""pretrainx scaling fit: from a file to a printed fit and fit.json."""

import json

import numpy as np
import pytest

from pretrainx.cli import main as command_line
from pretrainx.cli.scaling_fit import options_of
from pretrainx.core.errors import ConfigError
from pretrainx.scaling import fit_file
from pretrainx.scaling.fit_options import FitOptions
from scaling.synthetic import isoflop

MAP = "--columns=parameters:n_million*1e6,tokens:d,loss:val,budget:c,flops:c"


@pytest.fixture
def path(tmp_path):
    table = isoflop(noise=2e-3)
    lines = ["config,n_million,d,val,c"]
    for row in range(len(table)):
        numbers = (table.parameters[row] / 1e6, table.tokens[row], table.loss[row], table.budget[row])
        lines.append(",".join(["mine", *(repr(float(number)) for number in numbers)]))
    (tmp_path / "table.csv").write_text("\n".join([*lines, "other,1,1,nan,1"]))
    return tmp_path / "table.csv"


def test_a_table_is_fitted_printed_and_written(path, capsys):
    output = path.with_name("fit.json")
    words = ["scaling", "fit", f"--table={path}", MAP, "--where=config=mine", f"--output={output}"]
    assert command_line.main([*words, "--starts=5", "--replicates=20", "--fixed=E=1.8172", "--residual=log_mse"]) == 0
    printed = capsys.readouterr().out
    fit = fit_file.load(output)
    assert fit.values["E"] == 1.8172 and fit.rows == 35 and fit.convention == "column c"
    for name, value in fit.values.items():
        assert f"{name:<7}{value:.5g}"[:12] in printed
    for words in ("90% of 20 replicates", "90% by delta method", "held", "N*", "besiroglu", "20:1 rule", "agreement"):
        assert words in printed
    assert f"written: {output}" in printed and "where config=mine" in printed


def test_minima_and_their_reasons_are_printed(path, capsys):
    words = ["scaling", "fit", f"--table={path}", MAP, "--where=config=mine", "--method=isoflop", "--replicates=20"]
    assert command_line.main(words) == 0
    printed = capsys.readouterr().out
    assert (
        "budget" in printed
        and "1e+19" in printed
        and "window all" in printed
        and not path.with_name("fit.json").exists()
    )


def test_a_study_is_fitted_into_its_directory(tmp_path, capsys):
    table = isoflop(noise=2e-3)
    names = ("parameters", "tokens", "flops", "loss", "budget")
    rows = [
        {"run": f"r{row}", "status": "done", "convention": "matmul_causal", "unit": "token"}
        | {name: float(getattr(table, name)[row]) for name in names}
        for row in range(len(table))
    ]
    rows.append({**rows[0], "run": "lost", "status": "diverged", "loss": "nan"})
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert command_line.main(["scaling", "fit", f"--workdir={tmp_path}", "--starts=5", "--replicates=0"]) == 0
    printed = capsys.readouterr().out
    fit = fit_file.load(tmp_path / "fit.json")
    assert fit.convention == "matmul_causal" and fit.samples.shape == (0, 5)
    assert [one.run for one in fit.dropped] == ["lost"] and "lost" in printed and "'diverged', not done" in printed
    np.testing.assert_allclose(fit.values["alpha"], 0.35, atol=0.02)


def test_a_filter_of_a_study_stays_with_its_fit_and_changed_results_are_told(tmp_path, capsys):
    table = isoflop(noise=2e-3)
    names = ("parameters", "tokens", "flops", "loss", "budget")
    rows = [
        {"run": f"r{row}", "status": "done", "seed": row % 2, "convention": "model"}
        | {name: float(getattr(table, name)[row]) for name in names}
        for row in range(len(table))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["scaling", "fit", f"--workdir={tmp_path}", "--where=seed=0", "--fixed=E=1.8172,alpha=0.3478", "--starts=1"]
    assert command_line.main([*words, "--replicates=0"]) == 0
    fit = fit_file.load(tmp_path / "fit.json")
    assert fit.rows == 18 and {one.rule for one in fit.dropped} == {"where"} and len(fit.dropped) == 17
    asked = ["scaling", "predict", f"--workdir={tmp_path}", "--parameters=1e8", "--tokens=1e9"]
    capsys.readouterr()
    assert command_line.main(asked) == 0 and "warning" not in capsys.readouterr().out
    rows[0]["loss"] += 0.1
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert command_line.main(asked) == 0
    assert f"again: pretrainx scaling fit --workdir={tmp_path} '--where=seed=0'" in capsys.readouterr().out


def test_every_option_is_a_flag():
    flags = {"method": "isoflop", "window": "3", "delta": "1e-4", "weights": "none", "equal": "", "fixed": "g=0.05,E=1"}
    found = options_of(flags)
    assert found == FitOptions(method="isoflop", window=3, delta=1e-4, equal=True, fixed=(("g", 0.05), ("E", 1.0)))
    assert options_of({}) == FitOptions()


@pytest.mark.parametrize(
    "flags, said",
    [
        ({"method": "isoflops"}, "--method: 'isoflops' is not a choice, did you mean 'isoflop'?"),
        ({"window": "-1", "delta": "0"}, "--delta: 0.0 must be above 0\n--window: -1 is below the least value 0"),
        ({"fixed": "E"}, "--fixed[0][1]"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(flags, said):
    with pytest.raises(ConfigError) as caught:
        options_of(flags)
    assert said in caught.value.why


@pytest.mark.parametrize(
    "words, code, said",
    [
        ([], 2, "neither is given"),
        (["--workdir=w", "--table=t.csv"], 2, "both are given"),
        (["--workdir=w", "--counted=a"], 2, "--counted and --workdir do not go together"),
        (["--workdir=w"], 3, "this study has no results"),
        (["--table=t.csv"], 3, "cannot be read"),
        (["--table=t.csv", "--columns=los:x"], 2, "did you mean 'loss'?"),
    ],
)
def test_refusals_of_the_command(tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(["scaling", "fit", *words]) == code
    assert said in capsys.readouterr().err


def test_a_bad_cell_is_named_on_the_command_line(path, capsys):
    assert command_line.main(["scaling", "fit", f"--table={path}", MAP]) == 3
    said = capsys.readouterr().err
    assert f"{path}, line 37, column val" in said and "--where=val!=" in said
