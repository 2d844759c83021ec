"""What fine-tuning forgets, with and without something that keeps it: State of the Union addresses before and after 1900.

    pretrainx data fetch --dest=DATA state-of-the-union
    python benchmarks/forgetting.py --data=DATA/state-of-the-union [--workdir=DIR]

Pretrains a small decoder on the addresses before 1900, then goes on with those since: plainly, with elastic weight
consolidation and L2-SP at several strengths, and with a share of the old addresses among the new ones (replay). Along each run
both held-out losses are measured. Printed is the old one where the new one is the same: where it has fallen by a half, three
quarters and nine tenths of what the plain run gains, interpolated between evaluations. About 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import numpy as np

from pretrainx.core.json_lines import read_metrics
from pretrainx.runs.evals import evaluate
from pretrainx.runs.train import train

BORDER = 1900
PRETRAINING, TUNING, EVERY = 3000, 600, 30
EWC, L2_SP, REPLAY = (0.1, 1.0, 10.0), (0.01, 0.1, 1.0), (0.05, 0.2)
LEVELS = (0.5, 0.75, 0.9)


def quiet(line: str) -> None:
    """The benchmark prints its own table."""


def by_century(data: pathlib.Path) -> tuple[list[str], list[str]]:
    """Paths of the addresses before the border, and since: names of files begin with the year."""
    files = sorted(data.resolve().glob("*.txt"))
    if len(files) != 233:
        raise SystemExit(f"{data} is not state-of-the-union: {len(files)} addresses, expected 233")
    old = [str(path) for path in files if int(path.name[:4]) < BORDER]
    return old, [str(path) for path in files if int(path.name[:4]) >= BORDER]


def shared(steps: int, peak: float) -> dict:
    return {
        "model": {"name": "decoder", "width": 64, "depth": 2, "heads": 2, "dropout": 0.0, "unroll": 0},
        "train": {"steps": steps, "batch_size": 16, "log_every": steps},
        "checkpoint": {"every": steps, "keep": 1},
        "evals": {"tokens": 16384, "batch_size": 64},
        "schedule": {"name": "constant", "peak": peak, "warmup": steps // 30},
    }


def pretrain(root: pathlib.Path, old: list[str]) -> pathlib.Path:
    values = shared(PRETRAINING, 3e-3)
    values["schedule"] = {"name": "cosine", "peak": 3e-3, "warmup": PRETRAINING // 30}
    values["data"] = {
        "source": "text",
        "paths": old,
        "tokenizer": "bpe",
        "vocab_size": 1024,
        "length": 64,
        "held_out": 0.1,
    }
    train(values, root / "old", say=quiet)
    evaluate(root / "old", names=("fisher",), evals={"fisher": {"examples": 1024}}, say=quiet)
    return root / "old"


def tune(
    root: pathlib.Path,
    name: str,
    old: list[str],
    new: list[str],
    preserve: dict,
    replay: float,
    steps=TUNING,
    peak=1e-3,
) -> np.ndarray:
    """float[n, 2]: (new held-out loss, old held-out loss) along a run."""
    values = shared(steps, peak)
    values["train"]["eval_every"] = EVERY
    part = lambda name, weight, files: {"name": name, "weight": weight, "source": "text", "paths": files}
    values["data"] = {
        "name": "mixture",
        # A part of no weight is held out all the same: so both losses are measured along the run.
        "parts": [part("old", max(replay, 1e-12), old), part("new", 1 - replay, new)],
        "tokenizer": str(root / "old" / "data" / "tokenizer.json"),
        "length": 64,
        "held_out": 0.1,
        "cache": str(root / "both"),
    }
    values["init_from"], values["preserve"] = str(root / "old"), preserve
    train(values, root / name, say=quiet)
    found = []
    for record in read_metrics(root / name / "metrics.jsonl"):
        of = lambda part, record=record: record.get(
            f"eval/held_out/{part}/term/nll", record.get(f"eval/held_out/{part}/loss")
        )
        if of("old") is not None:
            found.append((of("new"), of("old")))
    return np.array(found)


def at(curve: np.ndarray, level: float) -> float:
    """The old loss where the new one first reaches `level`; nan where it never does."""
    new, old = curve.T
    reached = np.flatnonzero(new <= level)
    if not len(reached):
        return float("nan")
    after = reached[0]
    if after == 0:
        return float(old[0])
    share = (new[after - 1] - level) / (new[after - 1] - new[after])
    return float(old[after - 1] + share * (old[after] - old[after - 1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path)
    given = parser.parse_args()
    old, new = by_century(given.data)
    with tempfile.TemporaryDirectory() as scratch:
        root = given.workdir or pathlib.Path(scratch)
        pretrain(root, old)
        ways = {"plain": ({"name": "none"}, 0.0)}
        ways |= {f"ewc {strength:g}": ({"name": "ewc", "strength": strength}, 0.0) for strength in EWC}
        ways |= {f"l2_sp {strength:g}": ({"name": "l2_sp", "strength": strength}, 0.0) for strength in L2_SP}
        ways |= {f"replay {share:.0%}": ({"name": "none"}, share) for share in REPLAY}
        curves, start = {}, tune(root, "before", old, new, {"name": "none"}, 0.0, steps=1, peak=1e-12)
        for name, (preserve, replay) in ways.items():
            curve = tune(root, name.replace(" ", "_").replace("%", ""), old, new, preserve, replay)
            curves[name] = np.concatenate([start, curve])
            print(f"{name}: new {curves[name][-1, 0]:.4f}, old {curves[name][-1, 1]:.4f} at the end", flush=True)
    print_table(curves)


def print_table(curves: dict[str, np.ndarray]) -> None:
    start = curves["plain"][0]
    best = curves["plain"][:, 0].min()
    levels = [start[0] - share * (start[0] - best) for share in LEVELS]
    print(f"\nbefore: new {start[0]:.4f}, old {start[1]:.4f}; old loss gained (+ is forgotten) where the new loss is")
    print(f"{'':<12}" + "".join(f"{level:>10.4f}" for level in levels))
    for name, curve in curves.items():
        forgotten = (at(curve, level) - start[1] for level in levels)
        print(f"{name:<12}" + "".join("   not yet" if np.isnan(x) else f"{x:>+10.4f}" for x in forgotten))


if __name__ == "__main__":
    main()
