"""Tokens per second and MFU of GPT-2 124M's train step in bfloat16, rows of 1,024 tokens, on the devices that are here.

    python benchmarks/gpt2_124m.py [--rows=32] [--steps=20] [--remat=none] [--unroll=1] [--smoke]

`rows` are per device. The torch speedrun (modded-nanogpt) states 446k tokens/s for one H100. `--smoke` is a tiny model, to see
that the script runs. MFU counts matrix products only, each query at its average number of keys (models/sizes.py).
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
from lm_step import make_step

from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.sizes import decoder_flops_per_token
from pretrainx.training.peak import peak_flops

STATED = 446_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--remat", default="none")
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    width, depth, heads, vocab_size, length = (32, 2, 2, 320, 64) if given.smoke else (768, 12, 12, 50257, 1024)
    config = DecoderConfig(width=width, depth=depth, heads=heads, remat=given.remat, unroll=given.unroll)
    devices, rows = jax.devices(), given.rows * jax.device_count()
    take = make_step(config, vocab_size, length, rows, "bfloat16")
    for _ in range(3):
        loss = float(take())
    times = []
    for _ in range(given.steps):
        started = time.perf_counter()
        jax.block_until_ready(take())
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    rate = rows * length / seconds
    peak = peak_flops(devices, "bfloat16")
    mfu = rate * decoder_flops_per_token(config, vocab_size, length) / peak if peak else float("nan")
    kind = f"{len(devices)} x {devices[0].device_kind}"
    print(f"{kind}: {1e3 * seconds:.1f} ms a step of {rows} rows, {rate:,.0f} tokens/s, MFU {mfu:.1%}, loss {loss:.3f}")
    if not given.smoke and devices[0].platform == "gpu":
        print(f"{rate / len(devices) / STATED:.2f} x the {STATED:,} tokens/s per H100 that the torch speedrun states")


if __name__ == "__main__":
    main()
