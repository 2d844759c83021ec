"""What each paradigm of pictures learns from Fashion-MNIST without labels, read out with 100 labels per class.

    pretrainx data fetch fashion-mnist --dest data
    python benchmarks/fashion.py --output=runs [--names=simclr,moco,...] [--steps=N]

Trains `configs/fashion.py` once for each name, into OUTPUT/fashion-NAME, and prints for each encoder the accuracy on the
10,000 test pictures of logistic regression and of nearest neighbours on its frozen features (pooled, last layer), given 100
labelled training pictures of each class, over three draws of these pictures with half of the 95 % interval (one run of each
encoder: what another seed of its training would change is not in it); the same of the encoder before training and of raw
pixels; the test accuracy of the same network trained with all labels (of 59,400 pictures: 1 % is held out of every run); and
which share of the way from raw pixels to that the features go. Run again, it goes on with what is not finished.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "fashion.py"
NAMES = ("supervised", "supervised_vit", "supervised_beit", "simclr", "moco", "mae", "tokenizer", "beit")
# Which network trained with labels an encoder is held against.
YARDSTICK = {"simclr": "supervised", "moco": "supervised", "mae": "supervised_vit", "beit": "supervised_beit"}


def opened(workdir: str):
    """(run, its state of step 0, its evaluation, its data)"""
    from pretrainx.runs.data import prepare
    from pretrainx.runs.evaluations import evaluation_of
    from pretrainx.runs.load import data_directory, load, rebuild
    from pretrainx.training import state as states

    run = load(workdir)
    recipe, parts = rebuild(run.config, run.about)
    data = prepare(recipe.data, data_directory(recipe, run.workdir), lambda line: None)
    state = states.create(parts.objective, parts.optimizer, parts.options, parts.found, recipe.train.batch_size)
    return run, state, evaluation_of(recipe, parts, data, run.workdir), data


def trained(workdir: str) -> dict[str, float]:
    """What `representations` say of a run's features; of a classifier also {"test/accuracy"}."""
    import numpy as np

    from pretrainx.objectives.classification import Classification

    run, _, evaluation, data = opened(workdir)
    found = dict(evaluation.representations(run.params, run.extras))
    if isinstance(run.objective, Classification):
        images, labels = data.arrays("test")
        batches = (np.asarray(images[first : first + 500]) for first in range(0, len(images), 500))
        guesses = [np.asarray(run.outputs({"image": batch}, ["logits"])["logits"]).argmax(1) for batch in batches]
        found["test/accuracy"] = (np.concatenate(guesses) == labels).mean()
    return found


def untrained(workdir: str) -> dict[str, float]:
    """What `representations` say of the features of a run's network as it starts."""
    _, state, evaluation, _ = opened(workdir)
    return evaluation.representations(state.full_params(), state.extras)


def pixels(workdir: str) -> dict[str, float]:
    return opened(workdir)[2].representations.pixels()


KINDS = {"trained": trained, "untrained": untrained, "pixels": pixels}


def read(kind: str, workdir: Path, step: int) -> dict[str, float]:
    """One of KINDS in a process of its own, kept in a file beside the run."""
    kept = workdir / f"{kind}-{step}.json"
    if not kept.is_file():
        command = [sys.executable, __file__, "--output=.", f"--read={kind}:{workdir}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        kept.write_text(done.stdout.splitlines()[-1])
    return json.loads(kept.read_text())


def shown(values: dict[str, float], kind: str) -> tuple[float, str]:
    metric = next(name for name in values if name.startswith(f"{kind}/") and not name.endswith("/interval"))
    return values[metric], f"{values[metric]:.4f} +- {values[f'{metric}/interval']:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--steps", type=int, default=0, help="0 is the configuration's")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        kind, _, workdir = given.read.partition(":")
        print(json.dumps({name: float(value) for name, value in KINDS[kind](workdir).items()}))
        return
    print(
        f"{'encoder':<18}{'seconds':>8}{'logistic, 100 per class':>26}{'20 neighbours':>20}{'before training':>20}{'gap':>7}"
    )
    yardsticks, floor = {}, None
    for name in given.names.split(","):
        workdir = given.output / f"fashion-{name}"
        command = [sys.executable, "-m", "pretrainx", "train", f"--config={CONFIG}:{name}", f"--workdir={workdir}"]
        command += [f"--config.data.cache={given.output / 'fashion-data'}"]
        command += [f"--config.train.steps={given.steps}"] * bool(given.steps)
        command += [f"--config.objective.tokenizer={given.output / 'fashion-tokenizer'}"] * (name == "beit")
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
        done = next(event for event in events if event["kind"] == "done")  # the first: opened again it does nothing
        row = f"{name:<18}{done['wall']:>8.0f}"
        if name == "tokenizer":
            print(row, flush=True)
            continue
        floor = floor or shown(read("pixels", workdir, 0), "probe")[0]
        found = read("trained", workdir, done["step"])
        if "test/accuracy" in found:
            yardsticks[name] = found["test/accuracy"]
        value, logistic = shown(found, "probe")
        best, gap = yardsticks.get(YARDSTICK.get(name)), ""
        if best:
            gap = f"{(value - floor) / (best - floor):.2f}"
        row += f"{logistic:>26}{shown(found, 'knn')[1]:>20}{shown(read('untrained', workdir, 0), 'probe')[1]:>20}"
        print(f"{row}{gap:>7}", flush=True)
    if floor:
        print(f"raw pixels, logistic {floor:.4f}; trained with labels, test accuracy: {yardsticks}")


if __name__ == "__main__":
    main()
