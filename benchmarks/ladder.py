"""The whole circle on two cores: plan a study, run it, kill it once in the middle, go on, predict its largest budget.

    pretrainx data fetch moses --dest=data
    python benchmarks/ladder.py --config=configs/scaling/smiles.py --workdir=runs/smiles [--workers=2] [--config.KEY=VALUE ...]
    python benchmarks/ladder.py --config=configs/scaling/smiles.py:masked_lm --workdir=runs/smiles_masked

`pretrainx scaling run` trains the runs. When a third of the FLOPs are done it is killed by SIGKILL, with all its children, and
the same command goes on. The way to fit is chosen among the budgets below the largest alone (scaling/holdout.choose), and what
that fit says of the largest budget is held against what was reached there. The exit code is 1 where a claim fails. The same
command again trains nothing and prints the same table; seconds are kept in DIR/ladder.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pretrainx.scaling import budgets, holdout, manifest, status
from pretrainx.scaling.read_table import read_results

PRETRAINX = (sys.executable, "-m", "pretrainx", "scaling")
MIDDLE = 0.33  # the share of the FLOPs after which the queue is killed
SECONDS, SHARE, HALF_WIDTH = 3600.0, 0.25, 0.03  # what is claimed: at most so much


def finished(directory: Path) -> float:
    """The share of the study's FLOPs whose runs are done."""
    runs = manifest.read(directory).runs
    done = [run.facts["flops"] for run in runs if status.standing(directory, run).state == status.DONE]
    return sum(done) / sum(run.facts["flops"] for run in runs)


def children(process: int) -> list[int]:
    """The processes that a process has started, where the system tells."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def train(directory: Path, workers: int) -> dict:
    """Runs the study to its end, killed once; what to keep of it."""
    words = [*PRETRAINX, "run", f"--workdir={directory}", f"--workers={workers}"]
    began = time.time()
    queue = subprocess.Popen(words)
    while queue.poll() is None and finished(directory) < MIDDLE:
        time.sleep(1)
    killed = {"after": time.time() - began, "done": finished(directory)}
    victims = [queue.pid, *children(queue.pid)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    queue.wait()
    subprocess.run(words, check=True)
    return {"seconds": time.time() - began, "killed": killed | {"processes": len(victims)}}


def verdict(directory: Path, kept: dict) -> list[tuple[str, str, bool]]:
    """(what is claimed, what was measured, whether it holds) of the largest budget, predicted from all below it."""
    table = read_results(directory)
    groups = budgets.by_budget(table)
    options, scores = holdout.choose(table.take(np.concatenate(groups[:-1])))
    held = holdout.hold_out(table, options)
    print(f"\n{len(table)} runs, {len(groups)} budgets of {', '.join(str(len(rows)) for rows in groups)} sizes")
    for one in holdout.roll(table, options):
        print(f"  {one.budget:8.3g} FLOPs: {one.predicted:.4f} predicted, {one.actual:.4f} reached ({one.how})")
    tried = ", ".join(f"{holdout.words(which)} {100 * error:.2f}%" for which, error, count in scores if count)
    print(f"chosen below the largest budget by the mean error there: {holdout.words(options)} (of {tried})\n")
    error, last, rule = (abs(held.error(said)) for said in (held.predicted, held.last, held.rule))
    seconds, killed = kept["seconds"], kept["killed"]
    return [
        ("under 60 minutes, killed once", f"{seconds:.0f} s, killed after {killed['after']:.0f} s", seconds < SECONDS),
        ("error under a quarter of the last gap", f"{held.share:.3f} of it ({100 * error:.2f}%)", held.share < SHARE),
        ("smaller than that of the last point", f"{100 * last:.2f}%", error < last),
        ("smaller than that of the 20:1 rule", f"{100 * rule:.2f}%", error < rule),
        ("inside the interval", f"{held.low:.4f} .. {held.high:.4f}, {held.actual:.4f} reached", held.inside),
        ("which is no wider than +-3%", f"+-{100 * held.half_width:.2f}%", held.half_width <= HALF_WIDTH),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--workers", type=int, default=2)
    given, overrides = parser.parse_known_args()
    plan = [*PRETRAINX, "plan", f"--config={given.config}", f"--workdir={given.workdir}", "--prepare", *overrides]
    subprocess.run(plan, check=True)
    path = given.workdir / "ladder.json"
    if not path.exists():
        path.write_text(json.dumps(train(given.workdir, given.workers)))
    claims = verdict(given.workdir, json.loads(path.read_text()))
    for claim, measured, holds in claims:
        print(f"{'ok  ' if holds else 'FAIL'}  {claim:<40} {measured}")
    return 0 if all(holds for *_, holds in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
