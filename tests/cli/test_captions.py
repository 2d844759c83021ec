"""`pretrainx generate --image`: a caption of a picture file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrainx.cli.config_file import load
from pretrainx.cli.main import main
from pretrainx.runs.train import train

CONFIGS = Path(__file__).parents[2] / "configs" / "image_text"
FEW = [("train.steps", "2"), ("data.limit", "64"), ("train.batch_size", "16"), ("schedule.warmup", "1")]
FEW += [("evals.limit", "16"), ("evals.image_text.recall", "()"), ("evals.image_text.written", "0")]
FEW += [
    ("evals.image_text.pictures", "0"),
    ("evals.representations.pictures", "0"),
    ("evals.representations.knn_k", "0"),
]

pytestmark = [pytest.mark.xdist_group("captions"), pytest.mark.slow, pytest.mark.rotated]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of coca, and a picture that is neither square nor of its size."""
    folder = tmp_path_factory.mktemp("captions")
    assert train(load(f"{CONFIGS}/coca_vit_b32.py:smoke", FEW), folder / "run", say=lambda line: None) == 0
    noise = np.random.default_rng(0).integers(0, 256, (20, 31, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    (folder / "broken.png").write_bytes(b"\x89PNG, and no more")
    return folder


def said(home, capsys, *words):
    code = main(["generate", f"--workdir={home}/run", *words])
    captured = capsys.readouterr()
    return code, captured.out if code == 0 else captured.err


def test_a_picture_gets_a_caption_and_the_same_one_again(home, capsys):
    first = said(home, capsys, f"--image={home}/picture.png", "--temperature=2", "--seed=5")
    assert first[0] == 0 and first[1].strip()
    assert said(home, capsys, f"--image={home}/picture.png", "--temperature=2", "--seed=5") == first
    assert said(home, capsys, f"--image={home}/picture.png", "--temperature=2", "--seed=6") != first


def test_a_caption_goes_on_with_its_beginning(home, capsys):
    code, text = said(home, capsys, f"--image={home}/picture.png", "--prompt=a small", "--max_tokens=4")
    assert code == 0 and text.startswith("a small")


def test_beams_and_nucleus(home, capsys):
    assert said(home, capsys, f"--image={home}/picture.png", "--beams=3")[0] == 0
    # The likeliest token alone is what is left of a nucleus of almost nothing: whatever is drawn is the greedy caption.
    drawn = said(home, capsys, f"--image={home}/picture.png", "--temperature=1", "--top_p=0.0001")
    assert drawn == said(home, capsys, f"--image={home}/picture.png")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--prompt=a"], 2, "no picture is given"),
        ([], 2, "nothing to go on with"),
        (["--prompt=a", "--beams=2"], 2, "captions of pictures"),
        (["--image=missing.png"], 3, "a picture cannot be used"),
        (["--image={home}/broken.png"], 3, "a picture cannot be used"),
        (["--image={home}/picture.png", "--beams=2", "--temperature=1"], 2, "neither draws"),
        (["--image={home}/picture.png", "--max_tokens=99"], 2, "positions for so many tokens"),
    ],
)
def test_refused(words, code, says, home, capsys):
    found = said(home, capsys, *(word.format(home=home) for word in words))
    assert found[0] == code and says in found[1]
