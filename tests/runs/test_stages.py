"""Runs in stages: what is refused before one starts, and one that is evaluated, resumed without stages, and written with."""

import shutil

import pytest

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.json_lines import read_metrics
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.runs.generate import generate
from pretrainx.runs.parts import assemble
from pretrainx.runs.recipe import parse
from pretrainx.runs.train import train

WORDS = Vocabulary(320, (("pad", 0), ("eos", 1), ("mask", 2)), sentinels=tuple(range(300, 320)))
PICTURES = Images(32, 1, ("no", "yes"), (0.5,), (0.5,))
SIZES = {"width": 16, "heads": 2}
SPANS = {"objective": {"name": "span_corruption"}, "data": {"length": 32}}
NETWORK = {"objective": {"name": "classification"}, "model": {"name": "resnet", "stages": (1,), "width": 8}}
NETWORK |= {"data": {"name": "images", "source": "shapes", "size": 32}}
PIECES = "sharding.microbatches"
ROWS, DIVIDE = "the rows do not divide over the pieces", "the layers do not divide over the stages"


@pytest.mark.parametrize(
    ("changes", "about", "what", "where", "why"),
    [
        ({"model": SIZES | {"depth": 6}}, WORDS, DIVIDE, "mesh.stage", "6 of layers/attention/key/bias over 4 stages"),
        ({"model": SIZES, "sharding": {"rounds": 3}}, WORDS, DIVIDE, "mesh.stage", "over 4 stages x 3 rounds"),
        (
            {"model": SIZES | {"depth": 8}, "sharding": {"rounds": 2, "microbatches": 6}},
            *(WORDS, "as many pieces at a time", PIECES, "6 pieces, 4 stages"),
        ),
        (
            {"model": SIZES, "sharding": {"microbatches": 8}},
            WORDS,
            ROWS,
            PIECES,
            "8 pieces, each over 2 groups",
        ),
        (
            {"train": {"batch_size": 16, "microbatches": 2}, "sharding": {"microbatches": 8}},
            WORDS,
            ROWS,
            PIECES,
            "2 microbatches of 8 pieces",
        ),
        pytest.param(
            SPANS | {"model": SIZES | {"name": "encoder_decoder", "decoder_depth": 2}},
            *(WORDS, DIVIDE, "mesh.stage", "2 of decoder/layers/"),
            marks=pytest.mark.slow,
        ),
        pytest.param(NETWORK, PICTURES, DIVIDE, "mesh.stage", "no stack of equal layers", marks=pytest.mark.slow),
    ],
)
def test_refused(changes, about, what, where, why):
    values = {
        "data": {"length": 16},
        "mesh": {"stage": 4},
        "train": {"steps": 1, "batch_size": 8},
        "schedule": {"warmup": 0},
    }
    for section, part in changes.items():
        values[section] = part if "name" in part else values.get(section, {}) | part
    with pytest.raises(ConfigError, match=what) as caught:
        assemble(parse(values), about)
    assert caught.value.where == f"config.{where}" and why in caught.value.why and caught.value.do


@pytest.mark.slow
@pytest.mark.rotated
def test_a_run_in_stages(trained, make_values, tmp_path):
    """Two stages give the losses of none, held out too; the run goes on without them, and writes with them."""
    in_stages = {"mesh": {"data": -1, "stage": 2}, "sharding": {"rounds": 1}}
    assert train(make_values(**in_stages), tmp_path / "run", say=lambda line: None) == 0
    losses = lambda directory, key: [row[key] for row in read_metrics(directory / "metrics.jsonl") if key in row]
    for key in ("train/loss", "train/grad_norm", "eval/held_out/loss"):
        assert losses(tmp_path / "run", key) == pytest.approx(losses(trained, key), rel=1e-4) != []
    written = generate(tmp_path / "run", "alpha", max_tokens=4, temperature=0.0)
    assert written == generate(trained, "alpha", max_tokens=4, temperature=0.0)
    shutil.copytree(trained, tmp_path / "plain")
    for name in ("run", "plain"):
        assert train(make_values(train={"steps": 12}), tmp_path / name, say=lambda line: None) == 0
    gone_on = [losses(tmp_path / name, "train/loss") for name in ("run", "plain")]
    assert gone_on[0] == pytest.approx(gone_on[1], rel=1e-4) and len(gone_on[0]) == 12
