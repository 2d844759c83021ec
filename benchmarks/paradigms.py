"""Every way to learn from text at equal parameters and tokens, beside a trigram model and beside shuffled targets.

    python benchmarks/paradigms.py --output=runs/paradigms [--steps=5000] [--control_steps=N] [--names=masked_lm,...]

Trains `configs/paradigms.py` once for each paradigm and writes OUTPUT/report.html with all curves. Then, for those that hide
tokens: accuracy on the held-out tokens to be recovered; that of an interpolated trigram model on the same places (masked
words from two neighbours on either side that are not masked themselves, and, "knowing", from the masked ones too; tokens
of spans from the two true tokens before); and that of the same model after training on targets that are shuffled within each
row, which is what it learns without having understood its input. Decoders are compared by loss.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("autoregressive", "masked_lm", "span_corruption", "denoising", "prefix_lm", "mixture")
CONFIG = Path(__file__).parents[1] / "configs" / "paradigms.py"


def control(name: str, output: Path, steps: int) -> None:
    """Trains on shuffled targets and prints {"accuracy", "model_accuracy"} of the true ones as JSON."""
    from dataclasses import dataclass

    import jax
    import jax.numpy as jnp
    import numpy as np

    from pretrainx.adapt.wrapper import Wrapper
    from pretrainx.cli.config_file import load
    from pretrainx.data.loader import place
    from pretrainx.data.text import prepare
    from pretrainx.evals import ngram
    from pretrainx.evals.baseline import Baseline
    from pretrainx.optim.optimizer import Optimizer
    from pretrainx.parallel.compilation import keep_compiled_programs
    from pretrainx.runs.evaluation_of_text import TextEvaluation
    from pretrainx.runs.parts import assemble
    from pretrainx.runs.recipe import parse
    from pretrainx.training import state as states
    from pretrainx.training.step import make_train_step

    @dataclass(frozen=True)
    class Shuffled(Wrapper):
        """The inner objective with the targets of each row that have weight in another order."""

        def observe_rows(self, keys, batch, step):
            seen = self.inner.observe_rows(keys, batch, step)
            if isinstance(batch["valid"], dict) or "nll" not in seen.weights:
                raise SystemExit("one paradigm at a time: a mixture's tasks are its own controls")
            return seen.replace(targets=jax.vmap(self.shuffled)(keys, seen.targets, seen.weights["nll"]))

        def shuffled(self, key, targets, weights):
            noise = jax.random.uniform(jax.random.fold_in(key, 1), targets.shape)
            places = jnp.argsort(jnp.where(weights > 0, 0.0, 1.0), stable=True)  # those with weight first, in order
            drawn = jnp.argsort(jnp.where(weights > 0, noise, 2.0))  # the same ones in a random order
            return targets.at[places].set(targets[drawn])

    keep_compiled_programs()
    changes = [("train.steps", str(steps)), ("data.cache", str(output / "data"))]
    changes += [("schedule.warmup", str(min(100, steps // 10)))]
    recipe = parse(load(f"{CONFIG}:{name}", changes))
    text = prepare(recipe.data, output / "data", lambda line: None)
    parts = assemble(recipe, text.vocabulary)
    objective, rows = Shuffled(parts.objective), recipe.train.batch_size
    found = states.layout(objective, rows)
    optimizer = Optimizer(recipe.optimizer, recipe.schedule.over(steps), recipe.train.grad_clip, found.params_axes)
    state = states.create(objective, optimizer, parts.options, found, rows)
    step = make_train_step(objective, optimizer, parts.options, state)
    source = text.training_rows(objective.reads, rows, recipe.seed)
    shardings = {leaf: parts.rules.rows(spec.shape) for leaf, spec in objective.batch_spec(rows).items()}
    for number in range(steps):
        state, _ = step(state, place(source.batch(number), shardings))
    evaluation = TextEvaluation(recipe, parts, text, output / name)
    params = state.full_params()
    values = evaluation.held_out["held_out"](params, state.extras, np.int32(steps))
    model = ngram.fit(text.tokens("train"), text.vocabulary.size)
    batches = evaluation.held_out["held_out"].batches
    fill = Baseline(parts.objective, parts.rules, recipe.seed, batches, model, text.vocabulary)(params, state.extras)
    print(json.dumps({"loss": values["loss"], "accuracy": values.get("metric/accuracy")} | fill))


def run(*arguments: str) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def evaluated(workdir: Path) -> dict[str, float]:
    # A trigram model does not write a text anew.
    names = "held_out" if workdir.name == "denoising" else "held_out,trigram"
    run("-m", "pretrainx", "eval", f"--workdir={workdir}", f"--evals={names}")
    found = {}
    for line in (workdir / "evals.jsonl").read_text().splitlines():
        found |= json.loads(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--control_steps", type=int, default=0, help="of the shuffled targets; 0 is as many")
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--control", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.control_steps = given.control_steps or given.steps
    if given.control:
        return control(given.control, given.output, given.control_steps)
    head = f"{'paradigm':<18}{'seconds':>8}{'loss':>8}{'accuracy':>10}   {'hidden tokens: model':>20}"
    print(head + f"{'trigram':>9}{'knowing':>9}{'shuffled':>10}{'trigram loss':>14}")
    show = lambda value, width: f"{value:>{width}.3f}" if value is not None else " " * (width - 1) + "-"
    for name in given.names.split(","):
        workdir, began = given.output / name, time.perf_counter()
        changes = [f"--config.data.cache={given.output / 'data'}", f"--config.train.steps={given.steps}"]
        changes += [f"--config.schedule.warmup={min(100, given.steps // 10)}"]
        run("-m", "pretrainx", "train", f"--config={CONFIG}:{name}", f"--workdir={workdir}", *changes)
        seconds, found = time.perf_counter() - began, evaluated(workdir)
        other, fills = {}, "eval/trigram/model_accuracy" in found
        if fills and name != "mixture":
            options = [f"--output={given.output}", f"--control={name}", f"--control_steps={given.control_steps}"]
            other = json.loads(run(__file__, *options).splitlines()[-1])
        row = f"{name:<18}{seconds:>8.0f}" + show(found.get("eval/held_out/loss"), 8)
        row += show(found.get("eval/held_out/metric/accuracy"), 10) + "   "
        row += show(found.get("eval/trigram/model_accuracy"), 20) + show(found.get("eval/trigram/accuracy"), 9)
        row += show(found.get("eval/trigram/all_neighbours"), 9)
        row += show(other.get("model_accuracy"), 10)
        print(row + show(found.get("eval/trigram/loss"), 14), flush=True)
    report = given.output / "report.html"
    run(
        "-m",
        "pretrainx",
        "report",
        f"--output={report}",
        *(str(given.output / name) for name in given.names.split(",")),
    )
    print(report)


if __name__ == "__main__":
    main()
