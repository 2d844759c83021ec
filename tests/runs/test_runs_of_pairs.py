"""Runs of CLIP and CoCa on captioned shapes: files and figures, loading, replay, resume, evaluation; what is refused."""

import json

import numpy as np
import pytest

import pretrainx
from pretrainx.cli.main import main
from pretrainx.core.errors import ConfigError
from pretrainx.core.json_lines import read
from pretrainx.runs.dry_run import dry_run
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train

SIZES = dict(width=16, depth=1, heads=2, unroll=0)
VIT = dict(name="vit", patch=4, **SIZES)
MODELS = {
    "clip": dict(name="dual_encoder", image=VIT, text=SIZES, embedding=8),
    "coca": dict(name="coca", image=VIT, text=SIZES, embedding=8, queries=3, pooler_heads=2),
}
SHOWN, HELD_OUT = 4, 32  # pictures that are shown or written of, that are measured

# What CLIP does CoCa does too, and more.
each = pytest.mark.parametrize("name", [pytest.param("clip", marks=pytest.mark.slow), "coca"])


def values(name, cache="", **train_):
    return dict(
        objective=dict(name=name),
        model=MODELS[name],
        data=dict(
            name="pairs", source="shapes", size=8, limit=64, held_out=0.4, vocab_size=270, length=12, cache=cache
        ),
        schedule=dict(name="constant", peak=1e-2, warmup=0),
        train=dict(dict(steps=3, batch_size=16, log_every=1) | train_),
        checkpoint=dict(every=2, keep=3),
        evals=dict(
            limit=16,
            image_text=dict(
                limit=HELD_OUT, recall=(1, 5), templates=("a {}",), written=SHOWN, decoding="top_p", pictures=SHOWN
            ),
            representations=dict(knn_k=0, pictures=4, train_limit=32, limit=HELD_OUT),
        ),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdir of an objective's run, made when it is asked for."""
    root, made = tmp_path_factory.mktemp("pairs"), {}

    def run(name):
        if name not in made:
            assert train(values(name, str(root / "data")), root / name, say=lambda line: None) == 0
            made[name] = root / name
        return made[name]

    return run


def losses(workdir):
    return [record["train/loss"] for record in read(workdir / "metrics.jsonl") if "train/loss" in record]


pytestmark = pytest.mark.xdist_group("pairs")


@each
def test_files_and_figures(runs, name):
    workdir = runs(name)
    assert len(losses(workdir)) == 3 and np.isfinite(losses(workdir)).all()
    records = list(read(workdir / "metrics.jsonl"))
    assert records[1]["perf/examples_per_s"] > 0 and 0 <= records[1]["train/metric/image_to_text"] <= 1
    assert records[1]["train/metric/scale"] == pytest.approx(1 / 0.07, rel=0.1)
    evaluated = {key: value for key, value in records[-1].items() if key.startswith("eval/")}
    begins = lambda start: [value for key, value in evaluated.items() if key.startswith(start)]
    assert len(begins("eval/retrieval/image_to_text_recall@5_")) == 2 and begins("eval/zero_shot/accuracy_")
    assert begins("eval/retrieval/chance@5_") == [5 / HELD_OUT]
    assert bool(begins("eval/captions/bleu_top_p_n4/held_out")) == (name == "coca")
    names = {path.name for path in (workdir / "samples").iterdir()}
    written = {"00000003-captions.png", "00000003.txt"} if name == "coca" else set()
    assert names == {"00000003-neighbours.png", "00000003-retrieval.png"} | written
    if written:
        text = (workdir / "samples" / "00000003.txt").read_text()
        assert len(text.splitlines()) >= 1 + 2 * SHOWN and "ground" in text


@each
def test_it_is_read_back(runs, name):
    run = pretrainx.load(runs(name))
    image, ids = np.zeros((8, 8, 8, 3), np.uint8), run.tokenizer.encode_batch(["a red star"])[0]
    tokens = np.zeros((8, 12), np.int32)
    tokens[:, : len(ids) + 2] = [run.tokenizer.vocabulary.special("bos"), *ids, run.tokenizer.vocabulary.special("eos")]
    assert run.about.images.size == 8 and "star" in run.about.images.classes
    assert run.features({"image": image}).shape == run.features({"tokens": tokens}).shape == (8, 8)
    np.testing.assert_array_equal(run.outputs({"image": image}, ["image"])["image"], run.features({"image": image}))
    np.testing.assert_array_equal(run.outputs({"tokens": tokens}, ["text"])["text"], run.features({"tokens": tokens}))
    batch = {"image": image, "tokens": np.repeat(tokens[:, None], 8, 1), "captions": np.ones(8, np.int32)}
    terms = {"contrastive", "loss"} | ({"caption"} if name == "coca" else set())
    assert set(run.loss(batch)) == terms and run.loss(batch)["contrastive"] == 0, "one caption for all: no strangers"
    if name == "coca":
        logits = run.outputs({"image": image, "tokens": tokens}, ["logits"])["logits"]
        assert logits.shape == (8, 12, run.tokenizer.vocabulary.size)


@each
def test_it_is_evaluated_and_replayed(runs, name, capsys):
    """At its end on the test split, which shapes have."""
    workdir = runs(name)
    words = ["--evals=image_text", "--config.evals.image_text.decoding=beam"]
    assert main(["eval", f"--workdir={workdir}", *words]) == 0
    found = json.loads((workdir / "evals.jsonl").read_text().splitlines()[-1])
    told = [key for key in found if key.startswith("eval/image_text/")]
    assert any("/retrieval/text_to_image_recall@1_16" in key and key.endswith("/test") for key in told)
    assert any("/captions/exact_beam" in key for key in told) == (name == "coca")
    capsys.readouterr()
    assert main(["replay", f"--workdir={workdir}", "--step=2", "--rows=1"]) == 0
    out = capsys.readouterr().out
    assert "reproduces" in out and "uint8[8, 8, 3]" in out and "weight of contrastive" in out


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_it_goes_on_where_it_stopped(runs, tmp_path):
    """Two steps and one more are three: the same losses to the last digit."""
    workdir = runs("coca")
    for steps in (2, 3):
        config = values("coca", str(workdir.parent / "data"), steps=steps)
        assert train(config, tmp_path / "run", say=lambda line: None) == 0
    assert losses(tmp_path / "run") == losses(workdir)


def test_a_dry_run_says_what_it_would_do(runs, tmp_path):
    said = []
    assert dry_run(values("coca", str(runs("coca").parent / "data")), tmp_path / "run", say=said.append) == 0
    text = "\n".join(said)
    assert "batch tokens" in text and "batch captions" in text and "inputs image" in text and "space/log_scale" in text
    assert "retrieval at 1, 5" in text and "zero-shot by 1 templates" in text and "4 captions, top_p" in text


@pytest.mark.parametrize(
    ("objective", "model", "wanted"),
    [("clip", "coca", "dual_encoder"), ("siglip", "coca", "dual_encoder"), ("coca", "clip", "coca")],
)
def test_the_model_of_another_objective(runs, objective, model, wanted, tmp_path):
    config = values(model, str(runs("coca").parent / "data")) | dict(objective=dict(name=objective))
    with pytest.raises(ConfigError, match="learns from pictures and captions with another model") as caught:
        dry_run(config, tmp_path / "run", say=lambda line: None)
    assert caught.value.where == "config.model.name" and f"--config.model.name={wanted}" in caught.value.do


@pytest.mark.parametrize(
    ("objective", "data", "kind"),
    [("clip", "images", "pictures"), ("coca", "text", "text"), ("simclr", "pairs", "pictures with captions")],
)
def test_data_of_another_kind(objective, data, kind):
    with pytest.raises(ConfigError, match=f"the data are {kind}, and the objective reads something else"):
        parse(dict(objective=dict(name=objective), data=dict(name=data), train=dict(steps=1000, batch_size=8)))
