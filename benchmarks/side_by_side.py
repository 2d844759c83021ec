"""Training steps of several programs, each in a process of its own, taken in turns and timed.

What else the machine does falls on all. A script calls `main` with the table of its sides; it runs itself once per side as a
child with --side.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

# Memory kept between steps: what `parallel/host_memory.py` sets in a run, here by the environment, for all sides.
KEPT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
Take = Callable[[], float]  # takes one step and returns its loss
DEVICE = os.environ.get("SIDE_BY_SIDE_DEVICE", "cpu")  # of this process, which is a side: "cpu" or "cuda"


def trained(objective, batch, rows: int, dtype: str, algorithm=None):
    """A function that takes one step of the run's own train step on `batch` and returns the loss on the device.

    AdamW unless another `algorithm` is given, global-norm clip 1. Imports neither grain nor ml_collections: an accelerator's
    host may lack them.
    """
    import jax

    from pretrainx.optim.optimizer import AdamWConfig, Optimizer
    from pretrainx.optim.schedules import ConstantConfig
    from pretrainx.parallel.compilation import keep_compiled_programs
    from pretrainx.parallel.mesh import make_mesh
    from pretrainx.parallel.rules import Rules
    from pretrainx.training import state as states
    from pretrainx.training.step import Options, make_train_step

    keep_compiled_programs()
    options, found = Options(Rules(make_mesh())), states.layout(objective, rows)
    optimizer = Optimizer(algorithm or AdamWConfig(), ConstantConfig(peak=6e-4).over(1000), 1.0, found.params_axes)
    state = states.create(objective, optimizer, options, found, rows)
    step = make_train_step(objective, optimizer, options, state)
    batch = {name: jax.device_put(array, options.rules.rows(array.shape)) for name, array in batch.items()}

    def take():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return take


def prepared_torch():
    """torch, on all cores; where torchvision is there without its compiled operators (a small CPU build of torch has none of
    them, and transformers looks for torchvision), their schemas are declared: none is called."""
    import importlib.util

    import torch

    if importlib.util.find_spec("torchvision") and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        prepared_torch.library = library  # it is undone when nothing refers to it
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    return torch


def trained_by_torch(model, loss_of: Callable, compiled: bool) -> Take:
    """The same for a torch model, on DEVICE: torch's fused AdamW, global-norm clip 1; `loss_of()` is its forward pass."""
    import torch

    model.to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(loss_of) if compiled else loss_of

    def take():
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return take


def narrow(dtype: str):
    """The context in which torch multiplies in this dtype."""
    import torch

    return torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def serve(take: Take) -> None:
    """A child: for each line `n` on stdin takes n steps and prints their milliseconds and the last loss."""
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            loss = take()
            times.append(1e3 * (time.perf_counter() - started))
        print(json.dumps({"times": times, "loss": loss}), flush=True)


class Side:
    """One child process."""

    def __init__(self, arguments: list[str], kept: bool, device: str):
        self.log = tempfile.TemporaryFile("w+")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= {
            "SIDE_BY_SIDE_DEVICE": device,
            "JAX_PLATFORMS": device,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        self.process = subprocess.Popen(
            [sys.executable, sys.argv[0], *arguments],
            env=environment | (KEPT if kept else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.times, self.loss = [], 0.0

    def step(self, count: int, counted: bool = True) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            said = self.log.read()[-3000:]
            raise SystemExit(f"{said}\na side ended with {self.process.wait()}: {' '.join(self.process.args)}")
        found = json.loads(line)
        self.loss = found["loss"]
        if counted:
            self.times += found["times"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main(
    description: str, cases: Mapping[str, Mapping[str, Callable[[str], Take]]], dtypes: str = "float32,bfloat16"
) -> None:
    """Runs the sides of each case in turns, and prints medians and the ratio of the first side to each other one.

    cases: {case: {side: function of the dtype's name that prepares the step}}; a side whose name ends in "compiled" takes part
    with --compiled.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile (needs a C++ compiler)")
    parser.add_argument("--dtypes", default=dtypes)
    parser.add_argument("--allocators", default="default,kept")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of all sides")
    parser.add_argument("--cases", default=",".join(cases))
    parser.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        case, side, dtype = given.side
        return serve(cases[case][side](dtype))
    width = max(map(len, cases)) + 2
    print(
        f"{'case':<{width}}{'allocator':<10}{'dtype':<10}{'side':<16}{'median ms':>10}{'min ms':>8}{'loss':>9}   first / side"
    )
    for case in given.cases.split(","):
        names = [name for name in cases[case] if given.compiled or not name.endswith("compiled")]
        for allocator in given.allocators.split(","):
            for dtype in given.dtypes.split(","):
                sides = {name: Side(["--side", case, name, dtype], allocator == "kept", given.device) for name in names}
                for side in sides.values():
                    side.step(5, counted=False)
                for _ in range(given.rounds):
                    for side in sides.values():
                        side.step(given.steps)
                ours = statistics.median(sides[names[0]].times)
                for name, side in sides.items():
                    median = statistics.median(side.times)
                    ratio = "" if name == names[0] else f"{ours / median:.2f}"
                    start = f"{case:<{width}}{allocator:<10}{dtype:<10}{name:<16}"
                    print(f"{start}{median:>10.0f}{min(side.times):>8.0f}{side.loss:>9.4f}   {ratio}", flush=True)
                    side.close()
