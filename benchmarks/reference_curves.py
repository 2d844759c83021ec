"""The reference curves in the docstrings of recipes: 20 steps of each `:smoke`, for two seeds.

    python benchmarks/reference_curves.py [configs/mlm/bert_base.py ...] [--write]

Prints for each recipe the sentence that its docstring has; --write puts it there. tests/runs/test_recipes.py compares.
"""

from __future__ import annotations

import argparse
import platform
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
SHOWN, LAST = (1, 5, 10, 15, 20), 10
SENTENCE = re.compile(r"Reference of `:smoke`.*?\.\n(?=\"\"\")", re.DOTALL)


def losses(path: Path, seed: int, workdir: Path) -> list[float]:
    """The training loss of each step of a recipe's smoke form."""
    from pretrainx.cli.config_file import load
    from pretrainx.core.json_lines import read
    from pretrainx.runs.train import train

    values = load(f"{path}:smoke", [("train.log_every", "1"), ("seed", str(seed))])
    if train(values, workdir, say=lambda line: None):
        raise SystemExit(f"{path} did not train")
    return [record["train/loss"] for record in read(workdir / "metrics.jsonl") if "train/loss" in record]


def sentence(curves: list[list[float]]) -> str:
    """What the docstring says, of the curves of seeds 0 and 1."""
    shown = ", ".join(f"{curves[0][step - 1]:.4f}" for step in SHOWN)
    means = [f"{sum(curve[-LAST:]) / LAST:.4f}" for curve in curves]
    return (
        f"Reference of `:smoke` (CPython {platform.python_version()}, jax {version('jax')}, one CPU device): loss at steps "
        + f"{', '.join(map(str, SHOWN))}\nis {shown}; the last ten average {means[0]}, with seed 1 {means[1]}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="put them into the docstrings")
    given = parser.parse_args()
    for path in given.paths or sorted(
        path for family in ("mlm", "seq2seq", "vision", "image_text") for path in CONFIGS.glob(f"{family}/*.py")
    ):
        with tempfile.TemporaryDirectory() as directory:
            found = sentence([losses(path, seed, Path(directory) / str(seed)) for seed in (0, 1)])
        print(f"{path}\n{found}", flush=True)
        if given.write:
            text = path.read_text()
            text = SENTENCE.sub(lambda _, found=found: found, text).replace("{reference}\n", found)
            path.write_text(text)


if __name__ == "__main__":
    main()
