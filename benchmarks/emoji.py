"""What CLIP, SigLIP and CoCa learn from 3,400 emoji in minutes: retrieval and zero-shot on emoji that were held out.

    pretrainx data fetch emoji --dest data
    python benchmarks/emoji.py --output=runs [--names=clip,siglip,coca] [--steps=N]

Trains `configs/image_text/emoji.py` once for each name, into OUTPUT/emoji-NAME, and prints for each: recall at 5 among all
held-out pictures, both ways, by the full caption, with half of the 95 % interval, and how many times chance that is; the
share of pictures whose category is found from its words alone (zero-shot), chance and the largest category; the seconds that
it took. Below it what
knowing the category is worth: words of the caption are weighed as naive Bayes learns them from the training captions, and
pictures are sorted by the probability of their true category, which no model is told. Run again, it goes on with what is not
finished.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "image_text" / "emoji.py"
NAMES = ("clip", "siglip", "coca")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def by_category(workdir: Path, k: int = 5) -> tuple[float, float]:
    """(text-to-image recall at k of a bag of words over categories, how often it finds the caption's category).

    Pictures of a category are as good as each other: of n in the likeliest categories before the own one and m in it, the own
    is among the first k with the chance (k - n) / m, between 0 and 1.
    """
    import numpy as np

    from pretrainx.runs.data import prepare
    from pretrainx.runs.load import data_directory
    from pretrainx.runs.recipe import read_recipe

    recipe = read_recipe(workdir)
    data = prepare(recipe.data, data_directory(recipe, workdir), lambda line: None)
    labels, captions = data.arrays("train")[1], data.captions("train")
    count = len(data.images.classes)
    counts, known = [Counter() for _ in range(count)], set()
    for label, texts in zip(labels, captions, strict=True):
        for text in texts:
            counts[label].update(words(text))
            known.update(words(text))
    totals = np.array([sum(each.values()) for each in counts])
    prior = np.log(np.bincount(labels, minlength=count) + 1.0)
    held, asked = data.arrays("held_out")[1], data.captions("held_out")
    sizes, found, right = np.bincount(held, minlength=count), [], []
    for label, texts in zip(held, asked, strict=True):
        scores = prior.copy()
        for word in words(texts[0]):
            scores += np.log((np.array([each[word] for each in counts]) + 1.0) / (totals + len(known)))
        before = sizes[scores > scores[label]].sum()
        found.append(np.clip((k - before) / sizes[label], 0, 1))
        right.append(scores.argmax() == label)
    return float(np.mean(found)), float(np.mean(right))


def evaluated(workdir: Path) -> dict[str, float]:
    """What `pretrainx eval` says of the finished run, kept in the run's evals.jsonl."""
    path, steps = (
        workdir / "evals.jsonl",
        [path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()],
    )
    if not path.is_file() or json.loads(path.read_text().splitlines()[-1])["step"] != max(map(int, steps)):
        command = [sys.executable, "-m", "pretrainx", "eval", f"--workdir={workdir}", "--evals=image_text"]
        command += ["--config.evals.image_text.captions_of_each=1"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return json.loads(path.read_text().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--steps", type=int, default=0, help="0 is the configuration's")
    given = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print(f"{'':<8}{'seconds':>8}{'picture to caption @5':>26}{'caption to picture @5':>26}{'zero-shot':>20}")
    for name in given.names.split(","):
        workdir = given.output / f"emoji-{name}"
        command = [sys.executable, "-m", "pretrainx", "train", f"--config={CONFIG}:{name}", f"--workdir={workdir}"]
        command += [f"--config.data.cache={given.output / 'emoji-data'}"]
        command += [f"--config.train.steps={given.steps}"] * bool(given.steps)
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        events = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
        seconds = next(event["wall"] for event in events if event["kind"] == "done")
        found = evaluated(workdir)
        pick = lambda part, found=found: next(
            (metric, value) for metric, value in found.items() if part in metric and not metric.endswith("/interval")
        )
        chance = pick("retrieval/chance@5_")[1]
        row = f"{name:<8}{seconds:>8.0f}"
        for way in ("image_to_text", "text_to_image"):
            metric, value = pick(f"{way}_recall@5_")
            interval = found[f"{metric}/interval"]
            row += f"{f'{value:.3f} +- {interval:.3f} ({value / chance:.0f} x)':>26}"
        metric, value = pick("zero_shot/accuracy")
        interval = found[f"{metric}/interval"]
        print(f"{row}{f'{value:.3f} +- {interval:.3f}':>20}", flush=True)
    recall, right = by_category(workdir)
    print(f"chance {chance:.4f}; a bag of words over categories {recall:.3f} (it finds {right:.3f} of the categories)")
    print(
        f"zero-shot: chance {pick('zero_shot/chance')[1]:.3f}, the largest category {pick('zero_shot/largest')[1]:.3f}"
    )


if __name__ == "__main__":
    main()
