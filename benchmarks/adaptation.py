"""Every way to adapt a pretrained encoder, side by side: what is trained, what it costs, and what it reaches with few labels.

    pretrainx data fetch minilm-l6 --dest=data && pretrainx import --source=data/minilm-l6 --workdir=runs/minilm
    pretrainx data fetch rotten-tomatoes --dest=data
    python benchmarks/adaptation.py --output=DIR [--labels=100,1000] [--seeds=3] [--names=lora,...] [--counts_only]

One table. Of each way: the share of trained parameters and the bytes of the optimizer's state, counted on the train state of
`configs/lm/gpt2_124m.py` and `configs/mlm/bert_base.py` with a head of two classes; then, by
`configs/adapt/rotten_tomatoes.py`, the accuracy on the test split (films that training has not seen; mean and half of the 95 %
interval over seeds, by Student's t) from MiniLM with so many labels, half of each class, and the median time of a step of 32
rows of 32 tokens. `scratch` is the same network from random values; behind the table stands what each way gains over it with
the same labels and seeds, paired. Run again, it goes on with what is not finished.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("full", "lora", "adapter", "prompt", "probe", "scratch")
# Steps by the number of labels: every way gets the same.
STEPS = {100: 40, 1000: 100}
# What is counted at the two published shapes; the last two say what a width and a length change.
COUNTED = {
    "full": dict(name="full"),
    "lora": dict(name="lora", rank=8, targets=".*(query|value)"),
    "adapter": dict(name="adapter", layout="houlsby", width=64),
    "prompt": dict(name="prompt", length=20),
    "prefix": dict(name="prefix", length=10),
    "ia3": dict(name="ia3"),
    "probe": dict(name="linear_probe"),
    "lora, rank 16, all dense layers": dict(name="lora", rank=16, targets="layers/.*"),
    "adapter, pfeiffer 48": dict(name="adapter", layout="pfeiffer", width=48),
    "adapter, pfeiffer 96": dict(name="adapter", layout="pfeiffer", width=96),
    "prompt, 100 rows": dict(name="prompt", length=100),
}
# A published shape: its config, words, and positions.
SHAPES = {"GPT-2 124M": ("lm/gpt2_124m.py", 50257, 1024), "BERT base": ("mlm/bert_base.py", 30522, 512)}


def counted(shape: str, adapt: dict) -> tuple[float, int]:
    """(share of trained parameters, bytes of the optimizer's state) of a published shape with a head of two classes."""
    import math

    import jax

    from pretrainx.cli.config_file import load
    from pretrainx.core import paths
    from pretrainx.core.labelled import Labelled
    from pretrainx.core.vocabulary import Vocabulary
    from pretrainx.runs.parts import assemble
    from pretrainx.runs.recipe import parse
    from pretrainx.training import state as states

    recipe_file, size, positions = SHAPES[shape]
    values = load(str(CONFIGS / recipe_file))
    objective = {"name": "sequence_classification", "pool": "auto"}
    values |= {"objective": objective, "adapt": adapt, "data": {"name": "labelled", "paths": ("-",), "length": 128}}
    values["train"] = dict(values["train"]) | {"batch_size": 8, "microbatches": 1}
    values["mesh"], values["model"] = {}, values["model"] | {"max_length": positions}
    specials = (("pad", 0), ("eos", 1), ("cls", 2), ("sep", 3))
    about = Labelled(Vocabulary(size, specials), "class", ("no", "yes"))
    parts = assemble(parse(values), about, jax.devices()[:1])
    state = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    axes = dict(parts.found.params_axes)
    number = lambda tree: sum(
        math.prod(
            size if axis == "vocab" else length for axis, length in zip(axes[path], leaf.shape, strict=True)
        )  # without padding
        for path, leaf in paths.leaves(tree)
    )
    stored = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    return number(state.params) / (number(state.params) + number(state.frozen)), stored


def learned(name: str, labels: int, seed: int, output: Path) -> tuple[float, float]:
    """(accuracy on the test split, median seconds of a step) of one run, trained now where it is not yet."""
    from pretrainx.cli.config_file import load
    from pretrainx.core.json_lines import read_metrics
    from pretrainx.runs.train import train
    from pretrainx.training.restore import steps_in

    values = load(f"{CONFIGS / 'adapt' / 'rotten_tomatoes.py'}:{name}")
    values["data"] |= {"labels": labels // 2, "labels_seed": seed, "cache": str(output / "data")}
    values["train"] |= {"steps": STEPS.get(labels, max(STEPS.values())), "log_every": 10}
    workdir = output / f"{name}-{labels}-{seed}"
    if values["train"]["steps"] not in steps_in(workdir / "checkpoints"):
        train(values | {"seed": seed}, workdir, say=lambda line: None)
    records = read_metrics(workdir / "metrics.jsonl")
    rates = [record["perf/examples_per_s"] for record in records if "perf/examples_per_s" in record][1:]
    accuracy = next(
        record["eval/test/metric/accuracy"] for record in records[::-1] if "eval/test/metric/accuracy" in record
    )
    return accuracy, values["train"]["batch_size"] / statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--labels", default="100,1000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts_only", action="store_true")
    given = parser.parse_args()
    import numpy as np

    from pretrainx.evals.transfer import half_width

    began = time.time()
    labels = [int(each) for each in given.labels.split(",")]
    titles = [f"{shape}: {what}" for shape in SHAPES for what in ("trained", "optimizer")]
    columns = [] if given.counts_only else [f"{count} labels" for count in labels] + ["step"]
    print(f"{'':<33}" + "".join(title.rjust(24) for title in titles) + "".join(title.rjust(18) for title in columns))
    names, reached = given.names.split(","), {}
    for name in [*names, *(name for name in COUNTED if name not in names)]:
        row = f"{name:<33}"
        for shape in SHAPES:
            if name not in COUNTED:
                row += "".rjust(48)
                continue
            share, stored = counted(shape, COUNTED[name])
            row += f"{share:.4%}".rjust(24) + f"{stored / 2**20:,.3f} MiB".rjust(24)
        if name in names and not given.counts_only:
            for count in labels:
                found = [learned(name, count, seed, given.output) for seed in range(given.seeds)]
                values = reached[name, count] = np.array([accuracy for accuracy, _ in found])
                row += f"{values.mean():.3f} +- {half_width(values):.3f}".rjust(18)
            row += f"{1e3 * statistics.median(seconds for _, seconds in found):.0f} ms".rjust(18)
        print(row, flush=True)
    for name, count in reached:
        if name != "scratch" and ("scratch", count) in reached:
            gain = reached[name, count] - reached["scratch", count]
            print(f"{name} over scratch, {count} labels: {gain.mean():+.3f} +- {half_width(gain):.3f}")
    print(f"in all {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
