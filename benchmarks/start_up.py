"""Seconds from the command to the first step, cold and with compiled programs on disk; tokens/s and MFU of the quickstart.

    python benchmarks/start_up.py [--full]

Without --full the quickstart is stopped after 150 steps. Each start is a process of its own with an empty workdir; the data
preparation is in the time, as a new user sees it. The third start finds prepared data as well.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from pretrainx.core.json_lines import read, read_metrics

ROOT = pathlib.Path(__file__).parent.parent


def start(workdir: pathlib.Path, cache: pathlib.Path, data: pathlib.Path, *overrides: str) -> tuple[float, float]:
    """(seconds to the first step, seconds in all) of one quickstart process."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pretrainx", "train", f"--config={ROOT / 'configs/quickstart.py'}"]
    command += [f"--workdir={workdir}", f"--config.data.cache={data}", *overrides]
    began = time.time()
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    took = time.time() - began
    first = next(event for event in read(workdir / "events.jsonl") if event["kind"] == "first_step")
    return first["time"] - began, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="measure the rate over the whole quickstart")
    short = [
        "--config.train.steps=3",
        "--config.schedule.warmup=1",
        "--config.train.eval_every=0",
        "--config.evals.tokens=256",
    ]
    rate = [] if parser.parse_args().full else ["--config.train.steps=150", "--config.evals.tokens=2048"]
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        cold, _ = start(root / "cold", root / "cache", root / "data-cold", *short)
        warm, _ = start(root / "warm", root / "cache", root / "data-warm", *short)
        again, _ = start(root / "again", root / "cache", root / "data-warm", *short)
        print(
            f"command to first step: cold {cold:.1f} s, compiled programs cached {warm:.1f} s, and data prepared {again:.1f} s"
        )
        _, took = start(root / "rate", root / "cache", root / "data", *rate)
        metrics = read_metrics(root / "rate" / "metrics.jsonl")
        series = lambda key: [record[key] for record in metrics if key in record]
        print(
            f"quickstart: median {statistics.median(series('perf/tokens_per_s')):.0f} tokens/s, "
            f"MFU {statistics.median(series('perf/mfu')):.1%} of a measured matrix product, "
            f"data wait {statistics.median(series('perf/data_wait')):.2%}, {took:.0f} s in all"
        )
        evaluated = [record for record in metrics if "eval/held_out/loss" in record][-1]
        print("; ".join(f"{key} {value:.4f}" for key, value in evaluated.items() if key.startswith("eval/")))


if __name__ == "__main__":
    main()
