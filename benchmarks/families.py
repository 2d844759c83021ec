"""Every family of models on every mesh: how far loss and gradients are from one device.

    python benchmarks/families.py [--families="NAME|..."] [--meshes="NAME|..."]

The recipes of configs/ in their `:smoke` sizes, four layers deep, on real rows (the standard library's source, generated
pictures), in float64 on eight simulated devices: for each mesh the difference of the loss, relative, and the largest of any
leaf of the gradient, relative to that leaf's largest entry on one device (or a millionth of all leaves' largest: some are zero
by algebra). "refused" is what a run would be told before it starts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

CONFIGS = Path(__file__).parents[1] / "configs"
ROWS = 32
DEEP = dict(depth=4, heads=4)
TOWERS = {"image": DEEP, "text": DEEP}
# A family: its recipe, and what is changed in it so that eight devices have something to divide.
FAMILIES = {
    "decoder": ("lm/llama_8b.py", {"model": DEEP | dict(kv_heads=4)}),
    "experts": ("lm/mixtral_8x7b.py", {"model": DEEP}),
    "encoder": ("mlm/bert_base.py", {"model": DEEP}),
    "encoder-decoder": ("seq2seq/t5_base_v1_1.py", {"model": DEEP | dict(width=64)}),
    "SimCLR, ResNet": ("vision/simclr_resnet50.py", {}),
    "MoCo v3, ViT": ("vision/moco_v3_vit_small.py", {"model": DEEP}),
    "MAE": ("vision/mae_vit_base.py", {"model": DEEP, "objective": dict(decoder_depth=4, decoder_heads=4)}),
    "CLIP": ("image_text/clip_vit_b32.py", {"model": TOWERS}),
    "CoCa": ("image_text/coca_vit_b32.py", {"model": TOWERS}),
}
MESHES = {
    "data 8": dict(data=8),
    "fsdp 8": dict(fsdp=8),
    "data 2, fsdp 4": dict(data=2, fsdp=4),
    "fsdp 2, tensor 4": dict(fsdp=2, tensor=4),
    "data 2, fsdp 2, tensor 2": dict(data=2, fsdp=2, tensor=2),
    "data 2, context 4": dict(data=2, context=4),
    "ring: fsdp 2, context 2, tensor 2": dict(fsdp=2, context=2, tensor=2, sharding=dict(context="ring")),
    "fsdp 2, expert 4": dict(fsdp=2, expert=4),
    "expert 2, fsdp 2, tensor 2": dict(expert=2, fsdp=2, tensor=2),
    "data 2, stage 4": dict(data=2, stage=4),
    "circular: fsdp 2, tensor 2, stage 2": dict(fsdp=2, tensor=2, stage=2, sharding=dict(rounds=2)),
}


def laid(values: dict, changes: dict) -> dict:
    """`values` with the keys of `changes` replaced, section by section."""
    sections = lambda key, value: laid(values.get(key, {}), value) if isinstance(value, dict) else value
    return values | {key: sections(key, value) for key, value in changes.items()}


def recipe_of(family: str, mesh: dict):
    from pretrainx.cli.config_file import load
    from pretrainx.runs.recipe import parse

    file, changes = FAMILIES[family]
    values = laid(load(f"{CONFIGS / file}:smoke"), changes)
    sharding = mesh.get("sharding", {})
    values |= {
        "mesh": {"data": 1} | {axis: size for axis, size in mesh.items() if axis != "sharding"},
        "sharding": sharding,
        "optimizer": dict(name="adamw"),
        "precision": dict(params="float64", compute="float64"),
        "evals": {},
    }
    values["train"] |= dict(batch_size=ROWS, microbatches=1, grad_clip=0.0)
    return parse(values)


def stepped(family: str, mesh: dict, data) -> tuple[float, dict]:
    """(loss, {path: gradient}) of the first step on this mesh, the gradient read from Adam's first moment."""
    from pretrainx.core import paths
    from pretrainx.runs.parts import assemble
    from pretrainx.training import state as states
    from pretrainx.training.step import make_train_step

    recipe = recipe_of(family, mesh)
    count = int(np.prod([size for axis, size in mesh.items() if axis != "sharding"]))
    parts = assemble(recipe, data.about, jax.devices()[:count])
    state = states.create(parts.objective, parts.optimizer, parts.options, parts.found, ROWS)
    batch = data.training_rows(parts.objective.reads, ROWS, recipe.seed).batch(0)
    placed = jax.tree.map(lambda x: jax.device_put(x, parts.rules.rows(x.shape)), batch)
    state, metrics = make_train_step(parts.objective, parts.optimizer, parts.options, state)(state, placed)
    moments = jax.device_get(state.opt_state["adam"].mu)
    gradients = {path: np.asarray(leaf) / (1 - recipe.optimizer.b1) for path, leaf in paths.leaves(moments)}
    return float(metrics["loss"]), gradients


def apart(one: tuple[float, dict], other: tuple[float, dict]) -> tuple[float, float]:
    """(relative difference of the loss, the largest relative one of a leaf of the gradient)"""
    loss = abs(other[0] - one[0]) / abs(one[0])
    largest = lambda x: float(np.abs(x).max())
    least = 1e-6 * max(map(largest, one[1].values()))
    return loss, max(largest(other[1][path] - leaf) / max(largest(leaf), least) for path, leaf in one[1].items())


def measure(families, meshes, say=print) -> list[tuple[str, str, float, float]]:
    """(family, mesh, difference of the loss, of the gradient) of all that are not refused; a line is said of each."""
    from pretrainx.core.errors import ConfigError
    from pretrainx.runs.data import prepare

    found = []
    for family in families:
        with tempfile.TemporaryDirectory() as directory:
            data = prepare(recipe_of(family, {"data": 1}).data, Path(directory) / "data", lambda line: None)
            one = stepped(family, {"data": 1}, data)
            say(f"{family}: loss {one[0]:.6f} on one device, {len(one[1])} leaves")
            for name in meshes:
                began = time.perf_counter()
                try:
                    loss, gradient = apart(one, stepped(family, MESHES[name], data))
                except ConfigError as error:
                    say(f"  {name:<36} refused: {error.what} ({error.where}: {error.why})")
                    continue
                found.append((family, name, loss, gradient))
                seconds = time.perf_counter() - began
                say(f"  {name:<36} loss {loss:7.1e}   gradient {gradient:7.1e}   {seconds:5.1f} s")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default="|".join(FAMILIES), help="names between |")
    parser.add_argument("--meshes", default="|".join(MESHES), help="names between |")
    given = parser.parse_args()
    found = measure(given.families.split("|"), given.meshes.split("|"))
    worst = max(found, key=lambda row: max(row[2:]))
    print(f"{len(found)} pairs; the largest difference: {max(worst[2:]):.1e} ({worst[0]} on {worst[1]})")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    main()
