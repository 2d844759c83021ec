"""Tables that cannot be fitted: each says which row, why and what to do, and no fit runs into it later."""

import numpy as np
import pytest

from pretrainx.core.errors import DataError
from pretrainx.scaling import envelope, isoflop, loss_curve, refusals
from pretrainx.scaling.fit_options import FitOptions
from pretrainx.scaling.table import table

METHODS = {"isoflop": isoflop, "envelope": envelope, "curve": loss_curve}
N = np.tile(np.geomspace(1e7, 1e8, 5), 4)
C = np.repeat(1e17 * 3.0 ** np.arange(4), 5)


def changed(column=None, value=None, row=7, **facts):
    columns = {
        "parameters": N.copy(),
        "tokens": C / (6 * N),
        "loss": 2 + np.log(N / 3e7) ** 2,
        "flops": C.copy(),
        **facts,
    }
    if column:
        columns[column] = columns[column].copy()
        columns[column][row] = value
    return table(
        columns["parameters"],
        columns["tokens"],
        columns["loss"],
        flops=columns["flops"],
        budget=C[: len(columns["loss"])],
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("loss", np.nan),
        ("loss", np.inf),
        ("loss", -1.0),
        ("loss", 0.0),
        ("tokens", 0.0),
        ("parameters", -1.0),
        ("flops", np.nan),
    ],
)
def test_values_without_a_logarithm(method, column, value):
    with pytest.raises(DataError, match="cannot be fitted") as error:
        METHODS[method].fit(changed(column, value), FitOptions(method=method))
    assert (
        f"row 7 (7): {column} is {value:g}" in error.value.why and error.value.do and error.value.where == "the table"
    )


@pytest.mark.parametrize("method", ["isoflop", "envelope"])
def test_one_size(method):
    with pytest.raises(DataError, match="several sizes") as error:
        METHODS[method].fit(changed(parameters=np.full(20, 1e8)), FitOptions(method=method))
    assert "--method=curve" in error.value.do


@pytest.mark.parametrize("method", METHODS)
def test_nothing(method):
    with pytest.raises(DataError, match="nothing to fit"):
        METHODS[method].fit(changed().take([]), FitOptions(method=method))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (C < 5e17, "3 budgets with a minimum are needed, 2 found"),
        (C < 2e17, "3 budgets with a minimum are needed, 1 found"),
        (np.arange(20) % 5 > 2, "2 sizes in reach of its lowest, where a minimum needs 3"),
        (N > 4e7, "2 sizes"),
    ],
)
def test_too_few(rows, why):
    with pytest.raises(DataError) as error:
        isoflop.fit(changed().take(np.asarray(rows)), FitOptions(method="isoflop"))
    assert why in str(error.value)


def test_losses_that_fall_with_every_size():
    with pytest.raises(DataError, match="0 found") as error:
        isoflop.fit(changed(loss=3 - 1e-9 * N), FitOptions(method="isoflop"))
    assert str(error.value).count("C = ") == 4


@pytest.mark.parametrize("kind", ["parabola", "akima"])
def test_sizes_of_one_length_are_no_budget(kind):
    with pytest.raises(DataError, match="0 found") as error:
        isoflop.fit(changed(tokens=np.full(20, 1e9)), FitOptions(method="isoflop", minimum=kind))
    assert str(error.value).count("its 5 sizes have 1 different D") == 4


def test_one_length_and_long_lists():
    with pytest.raises(DataError, match="several lengths"):
        refusals.check_tokens(changed(tokens=np.full(20, 1e9)), "approach 3")
    with pytest.raises(DataError) as error:
        refusals.check_values(changed(loss=np.full(20, -1.0)))
    assert "and 15 more" in error.value.why


def test_huge_integers_stay_positive():
    """6 N D of these passes int64."""
    rows = table(np.full(3, 2 * 10**9), np.full(3, 10**12), np.ones(3))
    refusals.check_values(rows)
    assert rows.flops[0] == 1.2e22
