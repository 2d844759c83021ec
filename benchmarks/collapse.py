"""Whether the alarm tells collapse from health: SimCLR without negatives, SimSiam without stop-gradient, both as they are.

    python benchmarks/collapse.py [--seeds=5] [--first_seed=0] [--steps=2000] [--within=200] [--names=simclr,simsiam]

Small networks on scikit-learn's digits (extra `test`), thresholds as `config.alarm` has them. An ablated run is watched for
`within` steps and should be called, a healthy one for `steps` and should not. Prints for each how many seeds were called, at
which step, and the least spread and rank that were logged.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

ABLATIONS = {"simclr": dict(negatives=False), "simsiam": dict(stop_gradient=False)}
HEADS = {"simclr": dict(hidden=(64,), out=32, temperature=0.5), "simsiam": dict(hidden=(64, 64), out=32, bottleneck=8)}


def watched(
    name: str, ablated: bool, seed: int, steps: int, workdir: Path, data: Path
) -> tuple[int | None, float, float]:
    """(step at which the alarm was raised or None, least embedding_std, least embedding_rank)"""
    from pretrainx.core.json_lines import read
    from pretrainx.runs.train import train

    views = dict(name="grey", crop=(0.3, 1.0))
    values = dict(
        seed=seed,
        objective=dict(name=name, views=views, **HEADS[name], **(ABLATIONS[name] if ablated else {})),
        model=dict(name="resnet", stages=(1, 1), width=8),
        data=dict(name="images", source="digits", cache=str(data)),
        optimizer=dict(name="sgd", momentum=0.9),
        schedule=dict(name="constant", peak=0.05, warmup=10),
        train=dict(steps=steps, batch_size=128, log_every=10),
        checkpoint=dict(every=steps, keep=1),
        evals=dict(representations=dict(knn_k=0, pictures=0)),
    )
    train(values, workdir, say=lambda line: None)
    called = [event["step"] for event in read(workdir / "events.jsonl") if event["kind"] == "collapse"]
    records = [record for record in read(workdir / "metrics.jsonl") if record["step"] > 100 and "train/loss" in record]
    least = lambda metric: min(record[f"train/metric/{metric}"] for record in records)
    return min(called, default=None), least("embedding_std"), least("embedding_rank")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--within", type=int, default=200)
    parser.add_argument("--names", default=",".join(ABLATIONS))
    given = parser.parse_args()
    print(f"{'run':<28}{'called':>8}{'at steps':>28}{'least std':>11}{'least rank':>12}")
    with tempfile.TemporaryDirectory() as directory:
        for name in given.names.split(","):
            for ablated in (True, False):
                found = []
                for seed in range(given.first_seed, given.first_seed + given.seeds):
                    workdir = Path(directory) / f"{name}-{ablated}-{seed}"
                    steps = given.within if ablated else given.steps
                    found.append(watched(name, ablated, seed, steps, workdir, Path(directory) / "data"))
                steps = [str(step) for step, _, _ in found if step is not None]
                called = f"{name} without {'negatives' if name == 'simclr' else 'stop-gradient'}" if ablated else name
                row = f"{called:<28}{len(steps):>6}/{len(found)}{', '.join(steps):>28}"
                print(row + f"{min(f[1] for f in found):>11.3f}{min(f[2] for f in found):>12.3f}", flush=True)


if __name__ == "__main__":
    main()
