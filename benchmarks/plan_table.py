"""What known models take on known machines, by `pretrainx plan`: the table in the README. No accelerator is needed.

    python benchmarks/plan_table.py [--effort=full] [--rows=0,3] [--output=FILE.json]

Each row compiles the real train step of a shipped configuration ahead of time: 20 s to some minutes each on 2 cores. Needs the
extra `tpu`, and for the row of GPUs `pip install --no-deps jax-cuda12-plugin jax-cuda12-pjrt` of JAX's version; a row that
cannot be compiled here says why. Rates are upper bounds: where all traffic is hidden behind arithmetic or the reverse.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
# name, configuration, machine, overrides
ROWS = (
    ("GPT 6.6B", "lm/gpt2_124m.py:6.7b", "v5e:16x16", ()),
    ("LLaMA 3 8B", "lm/llama_8b.py", "v5p:4x4x4", (("train.microbatches", "1"),)),
    ("LLaMA 3 8B", "lm/llama_8b.py", "h100:8", (("train.microbatches", "16"),)),
    ("LLaMA 3 70B", "lm/llama_8b.py:70b", "v5p:8x8x8", ()),
    ("LLaMA 3.1 405B", "lm/llama_8b.py:405b", "v5p:16x16x24", ()),
    ("CLIP ViT-L/14, batch 32,768", "image_text/clip_vit_b32.py:l14", "v5e:16x16", ()),
    ("MAE ViT-H/14", "vision/mae_vit_base.py:huge", "v5e:8x8", ()),
    ("T5 11B", "seq2seq/t5_small.py:11b", "v5p:4x4x4", ()),
)


def record(config: str, topology: str, overrides, effort: str) -> dict:
    """The plan of one row, as `pretrainx plan --output` writes it."""
    from pretrainx.cli.config_file import load
    from pretrainx.parallel import machines
    from pretrainx.runs import plan

    machine = machines.parse(topology)
    layout = plan.lay_out(load(str(CONFIGS / config), list(overrides)), machine, machines.described(machine))
    return plan.record(plan.make(layout, effort))


def line(name: str, topology: str, found: dict) -> str:
    from pretrainx.core.readable import quantity, size
    from pretrainx.runs.plan_sweep import shown

    memory, floor, batch = found["memory"], found["floor"], found["batch"]
    peak = f"{size(memory['peak'])} of {size(memory['device'])}"
    cells = [name, f"`{topology}`", shown(found["mesh"]), f"{batch['rows']:,} / {batch['microbatches']}", peak]
    cells.append({True: "yes", False: "no", None: "not known"}[found["fits"]])
    if floor is None:
        return "| " + " | ".join([*cells, "", "", "", f"{found['compile_seconds']:.0f}"]) + " |"
    most = found["collectives"][0]
    cells += [
        f"{floor['mfu']:.0%}, {floor['bound']}",
        f"{quantity(floor['units_per_second'])} {batch['unit']}s/s",
        f"{most['kind']} over {'+'.join(most['axes'])}, {size(most['bytes'])}",
        f"{found['compile_seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--effort", choices=("low", "full"), default="low")
    parser.add_argument("--rows", default=",".join(map(str, range(len(ROWS)))), help="numbers of rows, from 0")
    parser.add_argument("--output", type=Path, help="all plans as JSON")
    given = parser.parse_args()

    from pretrainx.core.errors import PretrainxError
    from pretrainx.parallel import machines

    machines.prepare(machines.parse(ROWS[0][2]))
    head = "model, machine, mesh, rows / microbatches, peak, fits, MFU at most, rate at most, most that a device sends"
    print("| " + " | ".join([*head.split(", "), "compile s"]) + " |\n" + "|---" * 10 + "|", flush=True)
    plans = []
    for name, config, topology, overrides in (ROWS[int(number)] for number in given.rows.split(",")):
        try:
            plans.append({"name": name, **record(config, topology, overrides, given.effort)})
            print(line(name, topology, plans[-1]), flush=True)
        except PretrainxError as error:
            print(f"| {name} | `{topology}` | {error.what}: {error.do}" + " |" * 8, flush=True)
    if given.output:
        given.output.write_text(json.dumps(plans, indent=1) + "\n")


if __name__ == "__main__":
    main()
