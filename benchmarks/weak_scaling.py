"""Weak scaling on paper: what a device sends in a step, and how much of the peak is left, from 8 chips to 6,144.

    python benchmarks/weak_scaling.py [--model=8b|70b] [--generation=v5p|v5e|h100] [--rows=N]

LLaMA 3's sizes, rows of 8,192 tokens, so many of a chip: two for the 8B, one for the 70B, unless --rows says otherwise. Weights
in float32 and products in bfloat16, blocks recomputed. Parameters are sharded (fsdp) over 64 or 512 chips at most, and
replicated (data) over the rest: of TPUs inside a slice, of GPUs over hosts of eight. Bytes are those of
pretrainx/parallel/communication.py, which tests hold against compiled programs; seconds are by the machines' peaks
(pretrainx/parallel/machines.py), so that the efficiencies are bounds: the upper one where all communication hides behind
arithmetic, the lower one where none does. Memory traffic is left out.
"""

from __future__ import annotations

import argparse
import pathlib
from dataclasses import dataclass

from jax.sharding import AbstractMesh

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "lm" / "llama_8b.py"
VARIANTS = {"8b": "", "70b": ":70b"}
ROWS = {"8b": 2, "70b": 1}  # of a chip
SHARDED = {"8b": 64, "70b": 512}  # chips that share one copy of the state, at most
TOPOLOGIES = {
    "v5p": ("2x2x2", "4x4x4", "8x8x8", "16x16x16", "16x16x24"),
    "v5e": ("2x4", "8x8", "16x16", "2*16x16", "4*16x16", "8*16x16", "24*16x16"),
    "h100": ("8", "8x8", "64x8", "512x8", "768x8"),
}
LENGTH, WORDS = 8192, 128_256
STATE_BYTES = 16  # of a parameter: itself, two moments, its gradient


def model_of(name: str):
    """That of the recipe."""
    from pretrainx.cli.config_file import load
    from pretrainx.runs.recipe import parse

    return parse(load(str(CONFIG) + VARIANTS[name])).model


@dataclass(frozen=True)
class Row:
    """One machine: its mesh, bytes of a device by (kind, axis), the floor, and whether the state fits."""

    text: str
    chips: int
    mesh: dict[str, int]
    sent: dict[tuple[str, str], int]
    floor: object
    fits: bool


def measure(name: str, generation: str, rows: int) -> list[Row]:
    """A line for each topology, `rows` of the batch on each chip."""
    from pretrainx.models import sizes as counts
    from pretrainx.models.sizes_conventions import decoder_flops_per_token
    from pretrainx.parallel import collectives, communication, machines
    from pretrainx.runs import roofline

    model, found = model_of(name), []
    block, table = counts.matmul_weights(model), WORDS * model.width
    model_sizes = communication.Sizes(
        model.depth, model.width, model.shared_heads * model.head_size, block, table, table
    )
    per_token = decoder_flops_per_token(model, WORDS, LENGTH)
    head = 6 * table
    executed = (per_token - head) * 4 / 3 + head  # blocks are computed three times where the model's FLOPs count two
    for shape in TOPOLOGIES[generation]:
        slices, _, one = shape.rpartition("*")
        machine = machines.parse(f"{slices}*{generation}:{one}" if slices else f"{generation}:{one}")
        reach = machine.devices if machine.platform == "cuda" else machine.devices_per_slice
        sharded = min(reach, SHARDED[name])
        mesh = {"data": machine.devices // sharded, "fsdp": sharded}
        tokens = rows * LENGTH
        step = communication.step(model_sizes, mesh, tokens)
        floor = roofline.floor(
            machine,
            executed * tokens,
            0.0,
            step,
            AbstractMesh(tuple(mesh.values()), tuple(mesh)),
            tokens * machine.devices,
            model_flops=per_token * tokens,
        )
        sent = {(row.kind, "+".join(row.axes)): row.bytes for row in collectives.table(step)}
        state = counts.decoder_parameters(model, WORDS, LENGTH) * STATE_BYTES / sharded
        found.append(Row(machine.text, machine.chips, mesh, sent, floor, state < machine.memory))
    return found


def lines(name: str, generation: str, tokens: int, rows: list[Row]):
    first = next((row for row in rows if row.fits), rows[0])
    yield f"\nLLaMA {name.upper()} on {generation}, {tokens:,} tokens a chip and step"
    yield (
        f"{'machine':>16} {'chips':>5} {'fsdp x data':>11} | GB sent: {'gathers':>7} {'scatters':>8} {'reduces':>7} | seconds: "
        f"{'compute':>7} {'inside':>7} {'across':>7} | {'MFU':>5} {'none hidden':>11} | efficiency, from hidden to not"
    )
    for row in rows:
        floor, gb = row.floor, lambda *key, of=row: of.sent.get(key, 0) / 1e9
        text = f"{row.text:>16} {row.chips:>5} {row.mesh['fsdp']:>5} x {row.mesh['data']:<3} | "
        text += f"{gb('all-gather', 'fsdp'):>16.2f} {gb('reduce-scatter', 'fsdp'):>8.2f} {gb('all-reduce', 'data'):>7.2f} | "
        text += f"{floor.compute:>16.3f} {floor.inside:>7.3f} {floor.across:>7.3f} | "
        text += f"{floor.mfu:>5.1%} {floor.mfu_serial:>11.1%} | "
        hidden, plain = floor.mfu / first.floor.mfu, floor.mfu_serial / first.floor.mfu_serial
        yield text + (f"{hidden:>7.1%} {plain:>7.1%}" if row.fits else "the state does not fit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(ROWS), action="append")
    parser.add_argument("--generation", choices=tuple(TOPOLOGIES), action="append")
    parser.add_argument("--rows", type=int, help="of a chip")
    given = parser.parse_args()
    for name in given.model or ROWS:
        rows = given.rows or ROWS[name]
        for generation in given.generation or TOPOLOGIES:
            print(*lines(name, generation, rows * LENGTH, measure(name, generation, rows)), sep="\n")


if __name__ == "__main__":
    main()
