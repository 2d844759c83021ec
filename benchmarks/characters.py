"""nanoGPT's CPU yardstick, and how many of AdamW's steps Muon needs.

    python benchmarks/characters.py --text=input.txt [--muon] [--workdir=DIR]

`input.txt` is tinyshakespeare (data/tinyshakespeare/input.txt of the GitHub repository karpathy/char-rnn); its size and md5 are
checked. Trains configs/lm/characters.py in both forms and prints the loss over the whole held-out tenth beside nanoGPT's
published 1.88. With --muon: the modern form at two sizes, AdamW at several rates over all steps against Muon, at its one rate,
over 65 % of them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

from pretrainx.core.json_lines import read

BYTES, MD5 = 1_115_394, "6fb458f1232090904fb40fe944165e91"
CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "lm" / "characters.py"
STEPS, SHARE = 2000, 0.65
ADAMW_RATES, MUON_RATE = (5e-4, 1e-3, 2e-3, 4e-3), 1.5e-2
SIZES = {"width 64": dict(width=64, heads=2), "width 128": dict(width=128, heads=4)}


def check(path: pathlib.Path) -> None:
    content = path.read_bytes()
    if (len(content), hashlib.md5(content, usedforsecurity=False).hexdigest()) != (BYTES, MD5):
        raise SystemExit(f"{path} is not tinyshakespeare: {len(content)} bytes, expected {BYTES} and md5 {MD5}")


def train(text: pathlib.Path, workdir: pathlib.Path, variant: str, **overrides) -> tuple[float, float]:
    """(held-out nats per character, seconds from command to end)"""
    settings = {"data.paths": f'("{text}",)', "data.cache": str(workdir.parent / "data"), **overrides}
    command = [sys.executable, "-m", "pretrainx", "train", f"--config={CONFIG}{variant}", f"--workdir={workdir}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    done = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    records = list(read(workdir / "metrics.jsonl"))
    wall = [record["wall"] for record in records if "wall" in record][-1]
    return next(r["eval/held_out/loss"] for r in reversed(records) if "eval/held_out/loss" in r), wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--muon", action="store_true")
    given = parser.parse_args()
    check(given.text)
    text = given.text.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        root = given.workdir or pathlib.Path(scratch)
        if given.muon:
            return compare(text, root)
        print(f"{'model':<18}{'nats per character':>20}{'seconds':>10}")
        for name, variant in (("GPT-2 + AdamW", ":gpt2"), ("modern + Muon", "")):
            loss, seconds = train(text, root / name.replace(" ", ""), variant)
            print(f"{name:<18}{loss:>20.4f}{seconds:>10.0f}", flush=True)
        print(f"{'nanoGPT (stated)':<18}{1.88:>20.2f}")


def compare(text: pathlib.Path, root: pathlib.Path) -> None:
    print(f"{'size':<11}{'optimizer':<10}{'rate':>8}{'steps':>7}{'nats per character':>20}")
    for size, model in SIZES.items():
        model = {f"model.{key}": value for key, value in model.items()}
        runs = [("adamw", rate, STEPS) for rate in ADAMW_RATES] + [("muon", MUON_RATE, round(SHARE * STEPS))]
        losses = {}
        for name, rate, steps in runs:
            overrides = model | {"optimizer.name": name, "schedule.peak": rate, "train.steps": steps}
            losses[name, rate], _ = train(text, root / f"{size} {name} {rate}".replace(" ", "_"), "", **overrides)
            print(f"{size:<11}{name:<10}{rate:>8g}{steps:>7}{losses[name, rate]:>20.4f}", flush=True)
        best = min(loss for (name, _), loss in losses.items() if name == "adamw")
        muon = losses["muon", MUON_RATE]
        print(f"{size}: Muon after {SHARE:.0%} of the steps {muon:.4f}, best AdamW {best:.4f}: {muon - best:+.4f}")


if __name__ == "__main__":
    main()
