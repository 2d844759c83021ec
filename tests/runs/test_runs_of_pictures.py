"""Runs of pictures from a config to samples, resume, replay, evaluation and loading; BEiT with the tokens of another run."""

import json

import numpy as np
import pytest

import pretrainx
from pretrainx.cli.main import main
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.json_lines import read
from pretrainx.data.splits import fraction
from pretrainx.runs.data import prepare
from pretrainx.runs.dry_run import dry_run
from pretrainx.runs.evaluations import evaluation_of
from pretrainx.runs.parts import assemble, build, check_groups
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train
from pretrainx.training import state as states
from toys.pictures import noise, write_folder, write_idx

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


SPLITS = {"train": slice(0, 40), "t10k": slice(40, 60)}
MAE = dict(name="mae", decoder_width=8, decoder_depth=1, decoder_heads=2, augment=dict(name="none"))


pytestmark = pytest.mark.xdist_group("pictures")


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
    assert 1 <= evaluated["eval/collapse/rankme_features_n64/held_out"] <= 16
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
    changes = {"probe": "('moco', 'ssl')", "knn_k": "0", "probe_epochs": "2"}
    words = [f"--config.evals.representations.{name}={value}" for name, value in changes.items()]
    assert main(["eval", f"--workdir={workdir}", "--evals=representations", *words]) == 0
    found = json.loads((workdir / "evals.jsonl").read_text().splitlines()[-1])
    names = [name.split("/")[3] for name in found if "/probe/" in name]
    assert names == [
        f"{how}_{layer}_10-per-class" for layer in ("features", "pixels") for how in ("moco_e2_cached", "ssl_e2_cached")
    ]
    assert not any("/knn/" in name for name in found) and found["evals"]["representations"]["knn_k"] == 0
    assert json.loads((workdir / "config.json").read_text())["evals"]["representations"]["knn_k"] == 5
    capsys.readouterr()
    assert main(["eval", f"--workdir={workdir}", "--config.seed=1"]) == 2
    assert "only config.evals can be changed" in capsys.readouterr().err
    assert main(["eval", f"--workdir={workdir}", "--config.evals.representations.prob=ssl"]) == 2
    assert "did you mean 'probe'" in capsys.readouterr().err
    assert main(["replay", f"--workdir={workdir}", "--step=3", "--rows=1"]) == 0
    out = capsys.readouterr().out
    assert "reproduces" in out and "uint8[8, 8, 1]" in out and "weight of mse" in out


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_it_goes_on_where_it_stopped(trained, tmp_path):
    """Two steps and two more are four: the same losses to the last digit."""
    losses = lambda workdir: [r["train/loss"] for r in read(workdir / "metrics.jsonl") if "train/loss" in r]
    config = values(MAE, VIT)
    halted = config | {"train": config["train"] | {"steps": 2}}
    for each in (halted, config):
        assert train(each, tmp_path / "run", say=lambda line: None) == 0
    assert losses(tmp_path / "run") == losses(trained[0])


def evaluation_for(recipe, workdir):
    """(its evaluation, a fresh state, how often a whole one asks whether to stop)."""
    data = prepare(recipe.data, workdir / "data", lambda line: None)
    parts = assemble(recipe, data.about)
    state = states.create(parts.objective, parts.optimizer, parts.options, parts.found, recipe.train.batch_size)
    return evaluation_of(recipe, parts, data, workdir), state


def test_an_evaluation_that_is_cut_off_gives_nothing(trained, tmp_path):
    """Wherever the signal comes: half a record would pass for a whole one, and resuming would owe none."""
    (tmp_path / "data").symlink_to(trained[0] / "data")
    evaluation, state = evaluation_for(parse(values(MAE, VIT)), tmp_path)
    asked = []
    assert any("/knn" in f"/{name}" for name in evaluation(state, lambda: asked.append(0)))
    assert len(asked) > 4, "of two batches, the features, the bank, before the pictures, in the sheet"
    for last in range(len(asked)):
        asked.clear()
        assert evaluation(state, lambda last=last: asked.append(0) or len(asked) > last) == {}


def test_the_test_split_is_for_the_end(tmp_path):
    """Held-out pictures are measured while a run trains, the test split once it is evaluated by itself."""
    images, labels = np.stack([noise(seed, 8, 8, 1) for seed in range(60)]), np.arange(60) % 3
    paths = [write_idx(tmp_path, split, images[part], labels[part]) for split, part in SPLITS.items()]
    given = values(MAE, VIT)
    given["data"] = dict(name="images", source="idx", paths=(str(paths[0]),), test_paths=(str(paths[1]),), held_out=0.3)
    given["evals"]["representations"]["pictures"] = 2
    evaluation, state = evaluation_for(parse(given), tmp_path / "run")
    split = lambda names: {name.rpartition("/")[2] for name in names if name.startswith(("knn/", "collapse/"))}
    assert split(evaluation(state, lambda: False)) == {"held_out"}
    assert split(evaluation.representations(state.full_params(), state.extras)) == {"test"}


@pytest.mark.slow
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
    it_needs_the_tokenizers_run_no_more(tmp_path, named)


def it_needs_the_tokenizers_run_no_more(directory, named):
    """After the first checkpoint: loaded, evaluated, replayed, looked at, resumed."""
    (directory / "tokenizer").rename(directory / "moved")
    workdir = directory / "beit"
    assert pretrainx.load(workdir).objective.tokenizer.count == 4
    assert main(["eval", f"--workdir={workdir}", "--evals=held_out"]) == 0
    assert main(["replay", f"--workdir={workdir}", "--step=0", "--rows=1"]) == 0
    said = []
    assert train(values(named, BEIT, steps=2), workdir, say=said.append) == 0
    assert any("resumed from step 1" in line for line in said) and not any("network" in line for line in said)
    assert dry_run(values(named, BEIT, steps=3), workdir, say=said.append) == 0
    objective = json.loads((workdir / "config.json").read_text())["objective"]
    assert objective["network"]["model"]["codes"] == 4 and objective["tokenizer"] == named["tokenizer"]
    with pytest.raises(ConfigError, match="not the workdir of a run"):  # a new run takes its weights from there
        train(values(named, BEIT, steps=1), directory / "new", say=lambda line: None)


def test_skipped_pictures_are_told_at_every_start(tmp_path):
    """When they are prepared, and when the cache is opened."""
    write_folder(tmp_path / "pets", each=30, size=8)
    names = [path.relative_to(tmp_path / "pets").as_posix() for path in sorted((tmp_path / "pets").rglob("*.png"))]
    (tmp_path / "pets" / next(name for name in names if fraction(name) >= 0.3)).write_text("no picture")
    config = values(MAE, VIT, steps=1)
    source = dict(source="folder", paths=(str(tmp_path / "pets"),), bad_limit=0.5, cache=str(tmp_path / "data"))
    config["data"] = dict(name="images", held_out=0.3, **source)
    config["evals"] = dict(representations=dict(knn_k=0, pictures=0))
    for run in ("first", "second"):
        said = []
        assert train(config, tmp_path / run, say=said.append) == 0
        told = [event for event in read(tmp_path / run / "events.jsonl") if event["kind"] == "bad_records"]
        assert [(event["split"], event["count"]) for event in told] == [("train", 1)]
        assert any("were skipped: 1 of train" in line for line in said)


@pytest.mark.parametrize(
    ("objective", "data", "kind"),
    [("simclr", "text", "text"), ("masked_lm", "images", "pictures")],
)
def test_objectives_and_data_of_two_kinds(objective, data, kind):
    with pytest.raises(ConfigError, match=f"the data are {kind}"):
        parse(dict(objective=dict(name=objective), data=dict(name=data), train=dict(steps=1000, batch_size=8)))


@pytest.mark.parametrize(
    ("objective", "microbatches", "fits"),
    [("simclr", 1, True), ("simclr", 2, True), ("moco", 1, True), ("moco", 2, False), ("classification", 2, False)],
)
def test_groups_of_batch_norm_divide_the_rows(objective, microbatches, fits):
    """Of 16 pictures groups of 16 are a batch, and half of it where both views go through the network at once."""
    model = dict(name="resnet", stages=(1,), width=8, batch_group=16)
    section = dict(name=objective) | (dict(queue=16) if objective == "moco" else {})
    recipe, images = parse(values(section, model, microbatches=microbatches)), Images(8, 1, ("a", "b"), (0.5,), (0.3,))
    groups = lambda: check_groups(build(recipe, images), recipe)
    if fits:
        return groups()
    with pytest.raises(ConfigError, match="BatchNorm's groups") as caught:
        groups()
    assert caught.value.where == "config.model.batch_group" and "batch_group=8" in caught.value.do
