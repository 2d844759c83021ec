"""One run on many meshes and microbatches: largest differences from one device, and bytes per device.

    python benchmarks/meshes.py [--quick]

A small decoder of the quickstart's kind on the standard library's source, rows of uneven length, AdamW. float64: gradients of
the first step and every leaf of five states. float32: the losses of twenty steps at the quickstart's GPT-2-form rate of 1e-3.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import tempfile

import jax
import numpy as np

MESHES = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2))
ROWS, LENGTH = 32, 48


def recipe(mesh, microbatches, dtype, steps):
    from pretrainx.runs.recipe import parse

    return parse(
        {
            "model": dict(name="decoder", width=64, depth=2, heads=8, dropout=0.1),
            "data": dict(name="text", vocab_size=320, length=LENGTH, held_out=0.02),
            "schedule": dict(name="cosine", peak=1e-3, warmup=3),
            "train": dict(steps=steps, batch_size=ROWS, microbatches=microbatches),
            "precision": dict(params=dtype, compute=dtype),
            "mesh": dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)),
        }
    )


def batches(text, steps):
    """Real rows, cut at uneven places: every microbatch has another number of targets."""
    from pretrainx.core.records import TextRows

    rows = text.training_rows(TextRows(LENGTH + 1, 1), ROWS, 0)
    ends = np.random.default_rng(0).integers(LENGTH // 4, LENGTH + 2, (steps, ROWS))
    for step in range(steps):
        batch = rows.batch(step)
        for row, end in enumerate(ends[step]):
            batch["tokens"][row, end:] = text.vocabulary.special("pad")
        yield batch


@dataclasses.dataclass
class Result:
    """losses of each step, gradients of the first, all states (host trees), bytes on a device / (total / (fsdp x tensor))."""

    losses: list
    gradients: dict
    states: list
    share: float


def run(text, mesh, microbatches, dtype, steps) -> Result:
    from pretrainx.runs.parts import assemble
    from pretrainx.training import state as states
    from pretrainx.training.step import make_train_step

    chosen = recipe(mesh, microbatches, dtype, steps)
    parts = assemble(chosen, text.vocabulary, jax.devices()[: int(np.prod(mesh))])
    state = states.create(parts.objective, parts.optimizer, parts.options, parts.found, ROWS)
    leaves = jax.tree.leaves((state.params, state.opt_state))
    total, here = (
        sum(x) for x in zip(*[(leaf.nbytes, leaf.addressable_shards[0].data.nbytes) for leaf in leaves], strict=True)
    )
    step = make_train_step(parts.objective, parts.optimizer, parts.options, state)
    result = Result([], {}, [], here / (total / (mesh[1] * mesh[2])))
    for batch in batches(text, steps):
        placed = {name: jax.device_put(value, parts.rules.rows(value.shape)) for name, value in batch.items()}
        state, metrics = step(state, placed)
        result.losses.append(float(metrics["loss"]))
        if dtype == "float64":
            result.states.append(jax.device_get(state))
    if dtype == "float64":
        first = result.states[0].opt_state["adam"].mu
        result.gradients = jax.tree.map(lambda moment: moment / (1 - chosen.optimizer.b1), first)
    assert step.traces == 1
    return result


def gap(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max()) for x, y in pairs)


def measure(directory, meshes=MESHES, microbatches=(1, 2, 4), say=print) -> list[dict]:
    """A row for each (mesh, microbatches): gradient, state and loss differences, share of bytes."""
    from pretrainx.data.text import prepare

    text = prepare(recipe((1, 1, 1), 1, "float32", 20).data, pathlib.Path(directory) / "data", lambda line: None)
    reference, table = {}, []
    say(f"{'data,fsdp,tensor':>16} {'k':>2} | float64: gradients  5 steps | float32: 20 losses | bytes / share")
    for mesh in meshes:
        for count in microbatches:
            with jax.enable_x64(True):
                exact = run(text, mesh, count, "float64", 5)
            single = run(text, mesh, count, "float32", 20)
            if not reference:
                reference = {"exact": exact, "single": single}
            row = {
                "mesh": mesh,
                "microbatches": count,
                "gradients": gap(exact.gradients, reference["exact"].gradients),
                "states": gap(exact.states, reference["exact"].states),
                "losses": gap(single.losses, reference["single"].losses),
                "share": single.share,
            }
            table.append(row)
            say(
                f"{','.join(map(str, mesh)):>16} {count:>2} | {row['gradients']:>18.1e} {row['states']:>8.1e} | "
                f"{row['losses']:>18.1e} | {row['share']:>13.3f}"
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one device and (2, 2, 2) only")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as directory:
        measure(directory, ((1, 1, 1), (2, 2, 2)) if quick else MESHES)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main()
