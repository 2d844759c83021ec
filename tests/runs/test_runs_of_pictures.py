"""Runs of pictures from a config to samples, resume, replay, evaluation and loading; BEiT with the tokens of another run."""

import json

import numpy as np
import pytest

import pretrainx
from pretrainx.cli.main import main
from pretrainx.core.errors import ConfigError
from pretrainx.core.json_lines import read
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train

VIT = dict(name="vit", patch=2, width=16, depth=1, heads=2, positions="sincos", unroll=0)
BEIT = VIT | dict(positions="relative", mask_token=True)


def values(objective, model, **train_):
    """A run of a few steps on digits: 8 x 8 grey pictures, 16 patches."""
    shown = dict(knn_k=5, pictures=8, train_limit=200, limit=64, labels_per_class=10)
    return dict(
        objective=objective,
        model=model,
        data=dict(name="images", source="digits", held_out=0.1),
        schedule=dict(name="constant", peak=1e-2, warmup=0),
        train=dict(dict(steps=4, batch_size=16, log_every=1) | train_),
        evals=dict(limit=32, representations=shown),
        checkpoint=dict(every=2, keep=3),
    )


MAE = dict(name="mae", decoder_width=8, decoder_depth=1, decoder_heads=2, augment=dict(name="none"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'")
    workdir = tmp_path_factory.mktemp("pictures") / "run"
    said = []
    assert train(values(MAE, VIT), workdir, say=said.append) == 0
    return workdir, said


def test_files_and_figures(trained):
    workdir, said = trained
    assert any("training pictures of 8 x 8 x 1, 10 classes" in line for line in said)
    records = list(read(workdir / "metrics.jsonl"))
    assert records[1]["perf/examples_per_s"] > 0 and "perf/tokens_per_s" not in records[1]
    evaluated = records[-1]
    assert 0 <= evaluated["eval/knn/k5_t0.07_features_l2_10-per-class/held_out"] <= 1
    assert 1 <= evaluated["eval/collapse/rankme_features/held_out"] <= 16
    names = {path.name for path in (workdir / "samples").iterdir()}
    assert names == {"00000004-neighbours.png", "00000004-reconstruction.png"}
    assert (workdir / "report.html").read_text().count("data:image/png;base64") >= 2


def test_it_is_read_back_and_evaluated(trained, capsys):
    workdir, _ = trained
    run = pretrainx.load(workdir)
    images = np.zeros((8, 8, 8, 1), np.uint8)
    assert run.tokenizer is None and run.about.size == 8 and len(run.about.classes) == 10
    assert run.features({"image": images}).shape == (8, 16)
    assert set(run.loss({"image": images})) == {"mse", "loss"}
    with pytest.raises(ConfigError, match="lacks what the objective reads"):
        run.loss({"valid": np.ones(8, bool)})
    assert main(["eval", f"--workdir={workdir}"]) == 0
    found = json.loads((workdir / "evals.jsonl").read_text())
    assert (
        "eval/held_out/loss" in found and "eval/representations/knn/k5_t0.07_pixels_l2_10-per-class/held_out" in found
    )
    assert main(["eval", f"--workdir={workdir}", "--evals=sampled"]) == 2
    capsys.readouterr()
    assert main(["replay", f"--workdir={workdir}", "--step=3", "--rows=1"]) == 0
    out = capsys.readouterr().out
    assert "reproduces" in out and "uint8[8, 8, 1]" in out and "weight of mse" in out


def test_it_goes_on_where_it_stopped(trained, tmp_path):
    """Two steps and two more are four: the same losses to the last digit."""
    losses = lambda workdir: [r["train/loss"] for r in read(workdir / "metrics.jsonl") if "train/loss" in r]
    config = values(MAE, VIT)
    halted = config | {"train": config["train"] | {"steps": 2}}
    for each in (halted, config):
        assert train(each, tmp_path / "run", say=lambda line: None) == 0
    assert losses(tmp_path / "run") == losses(trained[0])


def test_codes_of_another_run(tmp_path):
    """Tokens come from a run of a tokenizer, or from clusters; a tokenizer that uses few of its codes is refused."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's: pip install 'pretrainx[test]'")
    tokenizer = dict(name="visual_tokenizer", codes=4, code_width=4, patch=2, width=8, blocks=0)
    coded = values(dict(name="vq_vae", augment=dict(name="none")), tokenizer, steps=30)
    assert train(coded, tmp_path / "tokenizer", say=lambda line: None) == 0
    assert {path.name for path in (tmp_path / "tokenizer" / "samples").iterdir()} == {"00000030-reconstruction.png"}
    named = dict(name="beit", tokenizer=str(tmp_path / "tokenizer"), min_block=2, augment=dict(name="none"))
    said = []
    assert train(values(named, BEIT, steps=1), tmp_path / "beit", say=said.append) == 0
    assert any("perplexity" in line and "of 4 codes" in line for line in said)
    source, run = pretrainx.load(tmp_path / "tokenizer"), pretrainx.load(tmp_path / "beit")
    np.testing.assert_array_equal(run.extras["tokenizer"]["codebook"], source.extras["codebook"])
    assert "tokenizer" not in run.params
    with pytest.raises(ConfigError, match="not the run of a visual tokenizer"):
        train(values(named | {"tokenizer": str(tmp_path / "beit")}, BEIT), tmp_path / "c", say=lambda line: None)
    with pytest.raises(ConfigError, match="there is none"):
        train(values(named | {"tokenizer": ""}, BEIT), tmp_path / "d", say=lambda line: None)
    with pytest.raises(ConfigError, match="two tokenizers"):
        parse(values(named | {"clusters": 8}, BEIT))


@pytest.mark.parametrize(
    ("objective", "data", "kind"),
    [("simclr", "text", "text"), ("masked_lm", "images", "pictures")],
)
def test_objectives_and_data_of_two_kinds(objective, data, kind):
    with pytest.raises(ConfigError, match=f"the data are {kind}"):
        parse(dict(objective=dict(name=objective), data=dict(name=data), train=dict(steps=1000, batch_size=8)))
