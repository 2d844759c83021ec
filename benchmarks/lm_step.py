"""One training step of a small GPT-2 beside transformers' GPT-2 in torch, on the same CPU cores.

    python benchmarks/lm_step.py [--rounds=7] [--steps=3] [--compiled]

4 layers, width 256, 4 heads, 256 tokens, batch 8, vocabulary 8192, tied head, AdamW, global-norm clip 1: forward, backward and
update. Every side is a process of its own; they step in turns, so that what else the machine does falls on all. Everything is
measured twice: with glibc's default allocator on all sides, and with memory kept between steps on all sides (what
`parallel/host_memory.py` sets in a run; here by the environment, so that torch has it too). Prints medians of milliseconds, and
ratios to torch in the same dtype and allocator. Needs torch and transformers (`pip install -e ".[parity]"`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LAYERS, WIDTH, HEADS, LENGTH, ROWS, VOCABULARY = 4, 256, 4, 256, 8, 8192
KEPT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


def tokens(rows: int = ROWS, length: int = LENGTH, vocab_size: int = VOCABULARY):
    """int32[B, T + 1], the same on every side."""
    import numpy as np

    return np.random.default_rng(0).integers(2, vocab_size, (rows, length + 1)).astype(np.int32)


def make_step(config, vocab_size: int, length: int, rows: int, dtype: str):
    """A function that takes one step of the run's own train step on random tokens and returns the loss on the device.

    Imports neither grain nor ml_collections: an accelerator's host may lack them.
    """
    import jax
    import numpy as np

    from pretrainx.core.vocabulary import Vocabulary
    from pretrainx.models.layers import Precision
    from pretrainx.objectives.autoregressive import AutoregressiveConfig
    from pretrainx.optim.optimizer import AdamWConfig, Optimizer
    from pretrainx.optim.schedules import ConstantConfig
    from pretrainx.parallel.compilation import keep_compiled_programs
    from pretrainx.parallel.mesh import make_mesh
    from pretrainx.parallel.rules import Rules
    from pretrainx.training import state as states
    from pretrainx.training.step import Options, make_train_step

    keep_compiled_programs()
    vocabulary = Vocabulary(vocab_size, (("pad", 0), ("eos", 1)))
    objective = AutoregressiveConfig().build(config, vocabulary, length, Precision("float32", dtype))
    options, found = Options(Rules(make_mesh())), states.layout(objective, rows)
    optimizer = Optimizer(AdamWConfig(), ConstantConfig(peak=6e-4).over(1000), 1.0, found.params_axes)
    state = states.create(objective, optimizer, options, found, rows)
    step = make_train_step(objective, optimizer, options, state)
    batch = {"tokens": tokens(rows, length, vocab_size), "valid": np.ones(rows, bool)}
    batch = {name: jax.device_put(array, options.rules.rows(array.shape)) for name, array in batch.items()}

    def take():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return take


def pretrainx_side(dtype: str):
    """A function that takes one step and returns its loss."""
    from pretrainx.models.decoder import DecoderConfig

    config = DecoderConfig(width=WIDTH, depth=LAYERS, heads=HEADS, unroll=0)
    take = make_step(config, VOCABULARY, LENGTH, ROWS, dtype)
    return lambda: float(take())


def torch_side(dtype: str, compiled: bool):
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.from_numpy(tokens()).long()
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous().view(-1)

    def loss_of(inputs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.float().view(-1, VOCABULARY), targets)

    forward = torch.compile(loss_of) if compiled else loss_of

    def take():
        optimizer.zero_grad(set_to_none=True)
        loss = forward(inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return take


def serve(side: str, dtype: str) -> None:
    """A child: for each line `n` on stdin takes n steps and prints their milliseconds and the last loss."""
    take = pretrainx_side(dtype) if side == "pretrainx" else torch_side(dtype, side == "torch compiled")
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            started = time.perf_counter()
            loss = take()
            times.append(1e3 * (time.perf_counter() - started))
        print(json.dumps({"times": times, "loss": loss}), flush=True)


class Side:
    """One child process."""

    def __init__(self, side: str, dtype: str, kept: bool):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, f"--side={side}", f"--dtype={dtype}"]
        self.process = subprocess.Popen(
            command,
            env=environment | (KEPT if kept else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.times, self.loss = [], 0.0

    def step(self, count: int, counted: bool = True) -> None:
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self.process.wait()}: {' '.join(self.process.args)}")
        found = json.loads(line)
        self.loss = found["loss"]
        if counted:
            self.times += found["times"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile (needs a C++ compiler)")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--allocators", default="default,kept")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        return serve(given.side, given.dtype)
    names = ["pretrainx", "torch eager"] + ["torch compiled"] * given.compiled
    print(f"{'allocator':<10}{'dtype':<10}{'side':<16}{'median ms':>10}{'min ms':>8}{'loss':>9}   pretrainx / side")
    for allocator in given.allocators.split(","):
        for dtype in given.dtypes.split(","):
            sides = {name: Side(name, dtype, allocator == "kept") for name in names}
            for side in sides.values():
                side.step(5, counted=False)
            for _ in range(given.rounds):
                for side in sides.values():
                    side.step(given.steps)
            ours = statistics.median(sides["pretrainx"].times)
            for name, side in sides.items():
                median = statistics.median(side.times)
                ratio = "" if name == "pretrainx" else f"{ours / median:.2f}"
                row = f"{allocator:<10}{dtype:<10}{name:<16}{median:>10.0f}{min(side.times):>8.0f}{side.loss:>9.4f}"
                print(f"{row}   {ratio}", flush=True)
                side.close()


if __name__ == "__main__":
    main()
