"""Every shipped recipe trains in its `:smoke` form, without anything fetched; its loss falls, or is as its docstring says."""

import platform
import re
from pathlib import Path

import pytest

from pretrainx.cli.config_file import load
from pretrainx.core.json_lines import read
from pretrainx.runs.train import train
from pretrainx.scaling.study import split

CONFIGS = Path(__file__).parents[2] / "configs"
# benchmarks/reference_curves.py writes this sentence.
REFERENCE = re.compile(
    r"Reference of `:smoke` \(CPython (\S+), jax \S+, one CPU device\): loss at steps ([\d, ]+)\n"
    r"is ([\d., -]+); the last ten average ([\d.-]+), with seed 1 ([\d.-]+)\.\n"
)
OF_TEXT = [*CONFIGS.glob("mlm/*.py"), *CONFIGS.glob("seq2seq/*.py")]
OF_PICTURES = [*CONFIGS.glob("vision/*.py")]
OF_PAIRS = [*CONFIGS.glob("image_text/*.py")]
OF_ADAPTED = [*CONFIGS.glob("adapt/*.py")]  # little is trained, of a base that knows nothing: the loss hardly falls
OF_VIEWS = [*OF_PICTURES, *OF_PAIRS, CONFIGS / "fashion.py"]
GENERATED = [*OF_VIEWS, CONFIGS / "adapt" / "fashion.py"]  # what they learn from; other text is the library's
OF_HIDDEN_PATCHES = ("mae_vit_base", "beit_vit_base", "visual_tokenizer")  # theirs falls as that of text does


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_smoke(path, tmp_path):
    reference = REFERENCE.search(path.read_text())
    # Without a curve to compare with, the batch is large enough for the loss of 20 steps to fall clearly.
    changes = [("train.log_every", "1")] if reference else [("train.log_every", "1"), ("train.batch_size", "16")]
    if path in OF_VIEWS:  # tests of their own have what is measured and shown
        changes += [
            (f"evals.representations.{name}", value)
            for name, value in (("knn_k", "0"), ("pictures", "0"), ("probe", ""))
        ]
    if path in OF_PAIRS:
        changes += [
            ("evals.image_text.recall", "()"),
            ("evals.image_text.written", "0"),
            ("evals.image_text.templates", "()"),
        ]
    assert train(split(load(f"{path}:smoke", changes))[0], tmp_path, say=lambda line: None) == 0
    records = [record for record in read(tmp_path / "metrics.jsonl") if "train/loss" in record]
    losses = [record["train/loss"] for record in records]
    # Losses between views hardly fall in 20 steps, some rise until a queue is full: there only the curve is compared.
    falls = path not in [*OF_VIEWS, *OF_ADAPTED] or path.stem in OF_HIDDEN_PATCHES
    assert len(losses) == 20 and (not falls or sum(losses[-3:]) / 3 < losses[0] - 0.3), losses
    # Of wrappers around a frozen model operations are not counted: the model's own would be too many.
    assert path in OF_ADAPTED or all("perf/mfu" in record for record in records[1:])
    if reference is None:
        return
    version, steps, shown, average, _ = reference.groups()
    if path not in GENERATED and version != platform.python_version():
        pytest.skip(
            f"the reference curve is of CPython {version}'s standard library, this is {platform.python_version()}"
        )
    # Cosines lie around 0, and are written with four decimals.
    assert sum(losses[-10:]) / 10 == pytest.approx(float(average), rel=1e-3, abs=1e-3)
    found = [losses[int(step) - 1] for step in steps.split(", ")]
    assert found == pytest.approx([float(loss) for loss in shown.split(", ")], rel=5e-3, abs=2e-3)


CURVES = sorted({*OF_PICTURES, *OF_PAIRS, *OF_ADAPTED} - {CONFIGS / "image_text" / "emoji.py"})


@pytest.mark.parametrize("path", CURVES, ids=lambda path: path.stem)
def test_reference_curves_of_pictures_are_stated(path):
    *_, shown, average, other = REFERENCE.search(path.read_text()).groups()
    assert len(shown.split(", ")) == 5 and float(average) != float(other)


@pytest.mark.parametrize("path", sorted(OF_TEXT), ids=lambda path: path.stem)
def test_reference_curves_are_stated(path):
    """Of two seeds, which differ by more than the tolerance of the comparison can hide, and by less than training brings."""
    *_, shown, average, other = REFERENCE.search(path.read_text()).groups()
    shown = [float(loss) for loss in shown.split(", ")]
    assert shown[0] > shown[-1] + 0.3 and abs(float(average) - float(other)) < (shown[0] - shown[-1]) / 4
