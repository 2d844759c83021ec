"""What local SGD (DiLoCo) saves on a slow link, and what it costs: held-out loss at the same number of steps, bytes per step.

    python benchmarks/local_sgd.py [--steps=300] [--workdir=DIR]

A small GPT on the quickstart's data, four simulated replicas along the mesh axis `data`, one batch of 32 rows in all: data
parallelism against config.local_sgd with H = 10 and 50 inner steps, each with AdamW of the same rate. Bytes are those that a
device sends over `data`, read off the compiled programs: of every step, and of an outer one over the H steps that it is for.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
REPLICAS, ROWS, PEAK = 4, 32, 5e-3
RUNS = {
    "data parallel": {},
    "DiLoCo, H = 10": dict(every=10, replicas=REPLICAS),
    "DiLoCo, H = 50": dict(every=50, replicas=REPLICAS),
    "mean, H = 10": dict(every=10, replicas=REPLICAS, rate=1.0, momentum=0.0),
    "mean, H = 50": dict(every=50, replicas=REPLICAS, rate=1.0, momentum=0.0),
}


def values(steps: int, local: dict, cache: pathlib.Path) -> dict:
    """The run's config; `every` is cut to a short run's length."""
    local = local | {"every": min(local["every"], steps)} if local else local
    return {
        "model": dict(name="decoder", width=48, depth=2, heads=3, positions="rotary", norm="rms", unroll=0),
        "data": dict(name="text", source="stdlib", vocab_size=320, length=64, held_out=0.02, cache=str(cache)),
        "schedule": dict(name="cosine", peak=PEAK, warmup=steps // 20),
        "train": dict(steps=steps, batch_size=ROWS, log_every=1),
        "checkpoint": dict(every=steps, keep=1),
        "evals": dict(tokens=65536, batch_size=128),
        "local_sgd": local,
    }


def sent(settings: dict, workdir: pathlib.Path) -> float:
    """Bytes that a device sends over the mesh axis `data`, per step in the mean."""
    import pretrainx
    from pretrainx.parallel.collectives import read
    from pretrainx.runs.compiled import abstract_batch
    from pretrainx.runs.parts import assemble
    from pretrainx.runs.recipe import parse
    from pretrainx.runs.replicas import in_replicas, step_of
    from pretrainx.training import state as states

    recipe = parse(settings)
    parts = in_replicas(recipe, assemble(recipe, pretrainx.load(workdir).tokenizer.vocabulary))
    state = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
    batch, step = abstract_batch(parts, ROWS), step_of(parts, state)
    over = lambda lowered: sum(
        found.total for found in read(lowered.compile().as_text(), parts.rules.mesh) if "data" in found.axes
    )
    each = over(step.lower(state, batch))
    return each + (
        over(step.outer.lower(parts.optimizer, state)) / recipe.local_sgd.every if recipe.local_sgd.every else 0
    )


def measure(directory: pathlib.Path, steps: int):
    """(name, held-out loss in nats per token, bytes per step over the slow link) of each run."""
    from pretrainx.core.json_lines import read
    from pretrainx.runs.train import train

    for name, local in RUNS.items():
        settings, workdir = values(steps, local, directory / "data"), directory / name.replace(" ", "-")
        train(settings, workdir, say=lambda text: None)
        losses = [
            line["eval/held_out/loss"] for line in read(workdir / "metrics.jsonl") if "eval/held_out/loss" in line
        ]
        yield name, losses[-1], sent(settings, workdir)


def main() -> None:
    import jax

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workdir", type=pathlib.Path)
    given = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", REPLICAS)
    with tempfile.TemporaryDirectory() as scratch:
        rows, first = measure(given.workdir or pathlib.Path(scratch), given.steps), None
        print(f"{given.steps} steps of {ROWS} rows, {REPLICAS} replicas")
        print(f"{'':<16}{'held-out loss':>14}{'KiB per step':>14}{'less by':>9}")
        for name, loss, size in rows:
            first = first or size
            print(f"{name:<16}{loss:>14.4f}{size / 1024:>14.1f}{first / size:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
