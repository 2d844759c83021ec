"""Tables from files: what is read, what is refused, and that each refusal names the cell."""

import json

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.scaling import read_table
from pretrainx.scaling.row_filters import accepts

GOOD = """name,params,n_billion,val,set
small,1e6,0.02,3.5,a
middle,10000000,2.0e-1,3.25,a
large,100000000000000000000,2,3,b
"""
COLUMNS = {"run": "name", "parameters": "params", "tokens": "n_billion*1e9", "loss": "val"}


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_foreign_table_by_a_map_of_columns(tmp_path):
    path = write(tmp_path, GOOD)
    found = read_table.read(path, COLUMNS | {"flops": "params*n_billion*6e9", "budget": "params"})
    assert found.runs == ("small", "middle", "large")
    np.testing.assert_array_equal(found.parameters, [1e6, 1e7, 1e20])
    np.testing.assert_allclose(found.tokens, [2e7, 2e8, 2e9], rtol=1e-15)
    np.testing.assert_allclose(found.flops, 6 * found.parameters * found.tokens, rtol=1e-15)  # beyond int64
    assert found.convention == "column params*n_billion*6e9" and found.source == str(path)
    assert found.loss.dtype == found.flops.dtype == np.float64


def test_without_flops_and_runs(tmp_path):
    found = read_table.read(write(tmp_path, "parameters,tokens,loss\n1,2,3\n\n4,5,6\n"), unit="picture")
    np.testing.assert_array_equal(found.flops, [12, 120])
    assert found.runs == ("2", "4") and found.convention == "6nd" and found.unit == "picture"
    np.testing.assert_array_equal(found.unique, found.tokens)
    assert np.isnan(found.error).all() and np.isnan(found.budget).all()


def test_json_lines_of_any_numbers(tmp_path):
    rows = [
        {"parameters": 10**30, "tokens": "1e9", "loss": 2, "error": None, "budget": ""},
        {"loss": 2.5, "tokens": 3, "parameters": 4, "error": 0.1, "budget": 7, "unique": 2},
    ]
    found = read_table.read(write(tmp_path, "\n".join(map(json.dumps, rows)) + "\n", "table.jsonl"))
    np.testing.assert_array_equal(found.parameters, [1e30, 4])
    np.testing.assert_array_equal(found.tokens, [1e9, 3])
    np.testing.assert_array_equal(found.error, [np.nan, 0.1])
    np.testing.assert_array_equal(found.budget, [np.nan, 7])
    np.testing.assert_array_equal(found.unique, [1e9, 2])


@pytest.mark.parametrize(
    "cell, said",
    [
        ("", "loss is needed in each row"),
        ("nan", "loss is needed in each row"),
        ("n/a", "'n/a': it is no number"),
        ("1_0", "'1_0': it is no number"),
        ("inf", "not finite"),
        ("1e999", "not finite"),
        ("-2", "loss must be above 0"),
        ("0", "loss must be above 0"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, cell, said):
    path = write(tmp_path, f"parameters,tokens,loss\n1,1,1\n2,2,{cell}\n")
    with pytest.raises(DataError) as caught:
        read_table.read(path)
    assert caught.value.where == f"{path}, line 3, column loss" and said in caught.value.why


@pytest.mark.parametrize(
    "text, name, said",
    [
        ("", "t.csv", "the table is empty"),
        ("parameters,tokens,loss\n", "t.csv", "the table is empty"),
        ("a,a\n1,2\n", "t.csv", "two columns have one name"),
        ("a,b\n1,2,3\n", "t.csv", "longer or shorter"),
        ("{\n", "t.jsonl", "no JSON object"),
        ("[1]\n", "t.jsonl", "no JSON object"),
        ('{"parameters": true, "tokens": 1, "loss": 1}\n', "t.jsonl", "cannot be used"),
        ("1 2", "t.txt", "not known"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, name, said):
    with pytest.raises(DataError, match=said):
        read_table.read(write(tmp_path, text, name))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_table.read(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "columns, said",
    [
        ({}, "nothing says what parameters, tokens, loss are"),
        (COLUMNS | {"tokens": "n_bilion*1e9"}, "no column 'n_bilion'"),
        (COLUMNS | {"loss": "value"}, "no column 'value'"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tmp_path, columns, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_table.read(write(tmp_path, GOOD), columns)
    assert "name, params, n_billion, val, set" in caught.value.why


@pytest.mark.parametrize("text", ["parameters", "parameters:", "size:params", "loss:a,loss:b"])
def test_a_map_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="maps no column"):
        read_table.column_map(text)
    assert read_table.column_map("loss: val , tokens:a*1e9") == {"loss": "val", "tokens": "a*1e9"}


def test_pooled_conventions_are_refused(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(DataError, match="several kinds of convention") as caught:
        read_table.read(path, COLUMNS | {"convention": "set"})
    assert caught.value.do == "choose one: --where=set=a"
    found = read_table.read(path, COLUMNS | {"convention": "set"}, where="set=a")
    assert len(found) == 2 and found.convention == "a" and found.source.endswith("where set=a")


@pytest.mark.parametrize(
    "where, rows",
    [
        ("", "smn"),
        ("loss<3.5", "mn"),
        ("loss<=3.5,config=rw/*", "sm"),
        ("loss>3", "sm"),
        ("config=rw/a|owt", "sn"),
        ("config!=rw/*", "n"),
        ("count=1e3", "s"),
        ("count!=", "sm"),
        ("count>=0", "sm"),
        ("config=none", ""),
    ],
)
def test_filters(where, rows):
    cells = {
        "s": {"config": "rw/a", "loss": "3.5", "count": "1000.0"},
        "m": {"config": "rw/d=1", "loss": 3.25, "count": 7},
        "n": {"config": "owt", "loss": "3", "count": None},
    }
    kept = accepts(where, ("config", "loss", "count"), "table.csv")
    assert "".join(name for name, row in cells.items() if kept(row)) == rows


@pytest.mark.parametrize(
    "where, said", [("loss", "none of"), ("los<3", "'loss'"), ("loss<x", "no number"), ("loss<3,", "none of")]
)
def test_a_filter_that_is_none_is_refused(where, said):
    with pytest.raises(ConfigError) as caught:
        accepts(where, ("loss",), "table.csv")
    assert said in caught.value.why


def test_a_filter_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="leaves no row"):
        read_table.read(write(tmp_path, GOOD), COLUMNS, where="set=c")


OWN = {
    "objective": "autoregressive",
    "budget": 1e15,
    "parameters": 1e6,
    "tokens": 1e8,
    "unit": "token",
    "unique_tokens": 5e7,
    "flops": 7e14,
    "convention": "matmul_causal",
    "loss": 1.5,
    "loss_error": 0.01,
}


def test_the_results_of_a_study(tmp_path):
    rows = [
        {"run": "one", "status": "done", **OWN},
        {"run": "two", "status": "diverged", **OWN, "loss": 9.0},
        {"run": "three", "status": "done", **OWN, "unique_tokens": None, "loss_error": None},
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_table.read_results(tmp_path)
    assert found.runs == ("one", "three") and found.convention == "matmul_causal"
    np.testing.assert_array_equal(found.unique, [5e7, 1e8])
    np.testing.assert_array_equal(found.error, [0.01, np.nan])
    np.testing.assert_array_equal(found.budget, [1e15, 1e15])
    (left_out,) = read_table.unfinished(tmp_path)
    assert (left_out.row, left_out.run, left_out.rule) == (1, "two", "status") and "diverged" in left_out.reason


def test_done_runs_without_a_loss_are_left_out_and_listed(tmp_path):
    rows = [
        {"run": str(number), "status": "done", **OWN, "loss": loss}
        for number, loss in enumerate((1.5, None, "nan", -0.5))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_table.read_results(tmp_path).runs == ("0",)
    left_out = read_table.unfinished(tmp_path)
    assert [(each.row, each.rule) for each in left_out] == [(1, "status"), (2, "status"), (3, "status")]
    assert left_out[0].reason.startswith("done, but no held-out loss at its last step")
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows[1:])))
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "metrics.jsonl").write_text(
        '{"step": 1, "eval/lost/loss": 2.0, "eval/lost/loss_error": 1.0}'
    )
    with pytest.raises(DataError, match="no run that is done has held_out/loss") as caught:
        read_table.read_results(tmp_path)
    assert caught.value.why.endswith("evaluated were: lost/loss") and "config.study.metric" in caught.value.do


BY_HIDDEN = {"parameters": "hidden", "flops": "flops_6nd", "loss": "nats*0.5", "tokens": "tokens*2"}


@pytest.mark.parametrize(
    "columns, facts, said",
    [
        ({}, {}, ("model", "total")),
        ({}, {"convention": "6nd", "counted": "hidden"}, ("6nd", "hidden")),
        (BY_HIDDEN, {}, ("column flops_6nd", "column hidden")),
        (BY_HIDDEN, {"convention": "6nd", "counted": "hidden"}, ("6nd", "hidden")),
        (BY_HIDDEN | {"convention": "convention", "counted": "counted"}, {}, ("model", "total")),
        ({"flops": "flops*2"}, {}, ("model", "total")),
    ],
)
def test_what_a_column_says_of_another_holds_for_that_one_alone(tmp_path, columns, facts, said):
    row = {
        "run": "one",
        **OWN,
        "convention": "model",
        "counted": "total",
        "hidden": 5e5,
        "flops_6nd": 3e14,
        "nats": 3.0,
    }
    found = read_table.read(write(tmp_path, json.dumps(row), "t.jsonl"), columns, **facts)
    assert (found.convention, found.counted) == said
    moved = "loss" in columns
    np.testing.assert_array_equal(found.error, [np.nan if moved else 0.01])  # that of another loss
    np.testing.assert_array_equal(found.unique, [1e8 if moved else 5e7])
    assert found.parameters[0] == (5e5 if moved else 1e6)


def test_some_of_a_study(tmp_path):
    rows = [{"run": str(seed), "status": "done", "seed": seed, **OWN} for seed in range(3)]
    rows[2]["status"] = "failed"
    for name in ("results", "curves"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for curves in (False, True):
        found = read_table.read_results(tmp_path, curves, "seed!=0")
        assert found.runs == ("1",) and read_table.where_of(found.source) == "seed!=0"
        left_out = read_table.unfinished(tmp_path, curves, "seed!=0")
        assert [(one.row, one.rule) for one in left_out] == [(2, "status"), (0, "where")]
    with pytest.raises(DataError, match="leaves no row"):
        read_table.read_results(tmp_path, where="seed=9")
    assert read_table.where_of("elsewhere/table.csv where a=b") == read_table.where_of("w/results.csv") == ""


def test_the_curves_of_a_study(tmp_path):
    rows = [{"run": "one", "status": "done", **OWN, "tokens": tokens} for tokens in (1e7, 2e7)]
    (tmp_path / "curves.jsonl").write_text("\n".join(map(json.dumps, [*rows, {**rows[0], "status": "running"}])))
    found = read_table.read_results(tmp_path, curves=True)
    assert found.runs == ("one", "one") and found.tokens.tolist() == [1e7, 2e7]
    with pytest.raises(DataError, match="this study has no results"):
        read_table.read_results(tmp_path)


def test_a_study_without_results_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no results") as caught:
        read_table.read_results(tmp_path)
    assert f"scaling run --workdir={tmp_path} --collect" in caught.value.do
    (tmp_path / "results.jsonl").write_text(json.dumps({"run": "one", "status": "failed", **OWN}))
    with pytest.raises(DataError, match="no run of this study is done"):
        read_table.read_results(tmp_path)
