"""The coordinate check: slopes, and what it says of a real model with and without a base."""

import json

import numpy as np
import pytest

from pretrainx.cli.main import main
from pretrainx.scaling.coordinates import Coordinates, slopes_of

WIDTHS = (64, 128, 256, 512)


def of(slope, start=1.0):
    """Sizes at two steps that grow by this power of the width at the second, of one tensor: [W, 2, 1]."""
    return np.array([[[start], [(width / 64) ** slope]] for width in WIDTHS])


@pytest.mark.parametrize("slope", [0.0, -0.5, 0.24, 1.5])
def test_slopes(slope):
    found = slopes_of(WIDTHS, of(slope))
    np.testing.assert_allclose(found, [[0.0], [slope]], atol=1e-12)
    assert Coordinates(WIDTHS, ("x",), of(slope), found).passes == (abs(slope) <= 0.25)


def test_the_last_step_is_judged():
    """A head with a slope of -1/2 before the first update is as it should be."""
    sizes = of(-0.5)[:, ::-1]
    found = Coordinates(WIDTHS, ("logits",), sizes, slopes_of(WIDTHS, sizes))
    assert found.slopes[0, 0] == pytest.approx(-0.5) and found.passes and found.verdict().startswith("PASS")


def test_sizes_without_a_logarithm():
    """All zero (a head that starts so) has no slope; zero at one width, or an overflow, is no pass."""
    assert (slopes_of(WIDTHS, of(0.0) * 0) == 0).all()
    for wrong in (0.0, np.inf, np.nan):
        sizes = of(0.0)
        sizes[2, 1] = wrong
        assert (
            slopes_of(WIDTHS, sizes)[1, 0] == np.inf
            and not Coordinates(WIDTHS, ("x",), sizes, slopes_of(WIDTHS, sizes)).passes
        )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    directory = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(1)
    for number in range(4):
        (directory / f"{number}.txt").write_text(" ".join(rng.choice(["alpha", "beta", "(", ")", "=", "\n"], 800)))
    path = directory / "config.json"
    model = {
        "width": 32,
        "depth": 2,
        "heads": 2,
        "initial_std": 0.18,
        "scaled_residual": False,
        "tied": False,
        "unroll": 0,
    }
    values = {
        "model": {**model, "base_width": 32, "zero_init": True},
        "data": {"source": "text", "paths": [str(directory)], "tokenizer": "bytes", "length": 16},
        "optimizer": {"name": "adamw", "weight_decay": 0.0},
        "schedule": {"name": "constant", "peak": 2.0**-6},
        "train": {"steps": 20, "batch_size": 8, "grad_clip": 0.0},
    }
    path.write_text(json.dumps(values))
    return path


@pytest.mark.slow
def test_coordcheck(config, tmp_path, capsys):
    """The table's last step is within the limit with a base, the standard one above 0.4; the exit code says which was asked."""
    words = ["scaling", "coordcheck", f"--config={config}", f"--output={tmp_path}"]
    assert main([*words, "--widths=32,64,128,256", "--compare"]) == 0
    found = json.loads((tmp_path / "coordcheck.json").read_text())["found"]
    assert found["as configured"]["largest"] <= 0.25 and found["standard parametrisation"]["largest"] > 0.4
    names = found["as configured"]["tensors"]
    assert names == ["embedding", "attention 0", "mlp 0", "attention 1", "mlp 1", "residual end", "logits"]
    assert (tmp_path / "coordcheck.html").read_text().count("<svg") == 10
    said = capsys.readouterr().out
    assert "PASS: the largest |slope| at step 5" in said and "FAIL: the largest |slope| at step 5" in said
    assert main([*words, "--widths=32,64", "--steps=2", "--config.model.base_width=0"]) == 9


@pytest.mark.slow
def test_lr_transfer(config, tmp_path, capsys):
    """Runs every width and rate, from one program each; what diverges is infinite and null in the file."""
    words = [
        "scaling",
        "lr_transfer",
        f"--config={config}",
        "--widths=32,64",
        "--rates=2^-9,2^-6,2^-3,1e6",
        "--steps=20",
    ]
    code = main([*words, f"--output={tmp_path}"])
    found = json.loads((tmp_path / "lr_transfer.json").read_text())["found"]["as configured"]
    assert code == (0 if found["passes"] else 9)
    reached = np.array(found["reached"], float)
    assert (
        reached.shape == (2, 4)
        and (np.nanargmin(reached, 1) == [found["rates"].index(best) for best in found["best"]]).all()
    )
    assert np.array(found["curves"], float)[0, 0, 0] == pytest.approx(np.array(found["curves"], float)[0, 1, 0])
    assert (tmp_path / "lr_transfer.html").read_text().count(
        "<svg"
    ) == 2 and "no worse than 32" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag", ["--widths=64", "--widths=64,64", "--widths=a,b", "--steps=1", "--rate=0", "--rate=1,2"]
)
def test_flags_that_cannot_be_meant(flag, tmp_path, config, capsys):
    assert main(["scaling", "coordcheck", f"--config={config}", f"--output={tmp_path}", flag]) == 2
    assert "error: " in capsys.readouterr().err


def test_two_rates_have_no_minimum_inside(tmp_path, config, capsys):
    assert main(["scaling", "lr_transfer", f"--config={config}", f"--output={tmp_path}", "--rates=1e-3,2e-3"]) == 2
