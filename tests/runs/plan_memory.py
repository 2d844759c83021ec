"""Run as a program on 8 simulated devices: prints the peak that a plan predicts, and the resident memory that a step took.

Live bytes of state and batch are known; what a step adds to them is the growth of the process's resident memory, whose highest
mark the kernel keeps. All eight devices share the process and wait for each other, so their temporaries are there at once.
"""

import ctypes
import gc
import json
import pathlib
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) * 1024


def held(tree) -> int:
    return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)


def main(values: dict) -> None:
    from pretrainx.parallel import machines
    from pretrainx.runs import plan
    from pretrainx.training import state as states
    from pretrainx.training.step import make_train_step

    machine = machines.parse("cpu:8")
    layout = plan.lay_out(values, machine, machines.described(machine))
    made, parts = plan.make(layout), layout.parts
    state = states.create(parts.objective, parts.optimizer, parts.options, parts.found, layout.rows)
    batch = parts.objective.batch_spec(layout.rows)
    batch = jax.tree.map(
        lambda leaf: jax.numpy.ones(leaf.shape, leaf.dtype, device=parts.rules.rows(leaf.shape)), batch
    )
    step = make_train_step(parts.objective, parts.optimizer, parts.options, layout.like)
    program = step.lower(state, batch).compile()
    jax.block_until_ready((state, batch))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    live = held(state) + held(batch)
    before = resident("VmRSS")
    for _ in range(3):
        state, metrics = program(state, batch)
    jax.block_until_ready((state, metrics))
    measured = (resident("VmHWM") - before + live) / 8
    print(json.dumps({"predicted": made.peak, "measured": measured, "live": live / 8, "fits": made.fits}))


main(json.loads(sys.argv[1]))
