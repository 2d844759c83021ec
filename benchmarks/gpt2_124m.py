"""Tokens per second and MFU of a decoder's train step in bfloat16, on the accelerators that are here, with the recipe.

    python benchmarks/gpt2_124m.py                       GPT-2 124M, rows of 1,024 tokens
    python benchmarks/gpt2_124m.py --shape=llama-8b      LLaMA 3 8B, rows of 4,096, blocks recomputed; needs 141 GB
    python benchmarks/gpt2_124m.py --shape=llama-1b      1.1B, the same way, for devices of 80 GB or less

[--rows=N --length=T --steps=20 --remat=NAME --unroll=N --params=DTYPE --moments=DTYPE --smoke]: `rows` are per device.

Stated by others, and printed beside: the torch speedrun (modded-nanogpt, track 3) runs GPT-2 124M at 446,000 tokens/s on each
H100; KempnerForge trains LLaMA 3's architecture on one H200 at 10,471 tokens/s, 57.8% MFU, which is 6 N + 12 L Q T FLOPs a
token, each query at all keys (derived). MFU is shown with each query at the keys that it sees (causal) and at all of them
(full); matrix products only, recomputation not counted (models/sizes.py). A round takes `steps` steps on random tokens and
waits for the last; the median of five counts. Without an accelerator nothing is measured; `--smoke` is a tiny model anywhere,
to see that the script runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass

import jax
import numpy as np
from lm_step import tokens
from side_by_side import trained

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import DTYPES, Precision
from pretrainx.models.sizes import decoder_parameters
from pretrainx.models.sizes_conventions import decoder_flops_per_token
from pretrainx.models.stack import REMAT
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.optim.moments import MOMENTS
from pretrainx.optim.optimizer import AdamWConfig
from pretrainx.training.peak import peak_flops

ROUNDS = 5
LLAMA = {"positions": "rotary", "norm": "rms", "activation": "silu", "gated": True, "bias": False, "tied": False}


@dataclass(frozen=True)
class Shape:
    """A model, how it is run where nothing else is said, and what others state for it.

    Attributes:
      rows, length: of a batch, per device.
      params, moments: dtypes in which parameters and moments are kept.
      rate, stretch: tokens/s per device to reach; utilisation: MFU to reach, full; 0 where none is stated.
    """

    model: dict
    vocab_size: int
    length: int
    rows: int
    remat: str = "full"
    params: str = "float32"
    moments: str = "params"
    rate: int = 0
    stretch: int = 0
    utilisation: float = 0.0


GPT2 = {"width": 768, "depth": 12, "heads": 12}
LLAMA_1B = {"width": 2048, "depth": 22, "heads": 32, "kv_heads": 4, "mlp_width": 5632, **LLAMA}
LLAMA_8B = {
    "width": 4096,
    "depth": 32,
    "heads": 32,
    "kv_heads": 8,
    "mlp_width": 14336,
    "rotary_base": 500_000.0,
    **LLAMA,
}
SHAPES = {
    "gpt2-124m": Shape(GPT2, 50257, 1024, 32, "none", rate=446_000, stretch=520_000),
    "llama-1b": Shape(LLAMA_1B, 32000, 4096, 4, utilisation=0.578),
    "llama-8b": Shape(LLAMA_8B, 128256, 4096, 2, params="bfloat16", moments="bfloat16", utilisation=0.578),
    "smoke": Shape({"width": 32, "depth": 2, "heads": 2}, 320, 64, 8, "none"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="gpt2-124m", choices=[name for name in SHAPES if name != "smoke"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--remat", choices=list(REMAT))
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--params", choices=DTYPES)
    parser.add_argument("--moments", choices=MOMENTS)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    name = "smoke" if given.smoke else given.shape
    shape = SHAPES[name]
    chosen = lambda key: getattr(shape, key) if getattr(given, key) is None else getattr(given, key)
    rows, length, params, moments = (chosen(key) for key in ("rows", "length", "params", "moments"))
    config = DecoderConfig(**shape.model, remat=chosen("remat"), unroll=given.unroll)
    devices = jax.devices()
    kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    size = decoder_parameters(config, shape.vocab_size, length)
    print(
        f"recipe: {name}, {size:,} parameters kept in {params}, computed in bfloat16; {rows} rows of {length} tokens a device"
    )
    print(f"  {config}")
    print(
        f"  AdamW, moments kept as {moments}, gradients clipped at norm 1; unroll {config.unroll}, remat {config.remat}"
    )
    print(f"  jax {jax.__version__} on {kind}; XLA_FLAGS={os.environ.get('XLA_FLAGS', '')!r}", flush=True)
    if devices[0].platform == "cpu" and not given.smoke:
        print("not measured: no accelerator")
        return
    seconds, loss = measured(
        config, shape.vocab_size, length, rows * len(devices), Precision(params, "bfloat16"), moments, given
    )
    report(shape, config, length, rows * length / seconds, peak_flops(devices[:1], "bfloat16"))
    print(f"{1e3 * seconds:.1f} ms a step of {rows * len(devices)} rows on {kind}, loss {loss:.3f}")


def measured(config, vocab_size, length, rows, precision, moments, given) -> tuple[float, float]:
    """(seconds of a step, the last loss)"""
    vocabulary = Vocabulary(vocab_size, (("pad", 0), ("eos", 1)))
    objective = AutoregressiveConfig().build(config, vocabulary, length, precision)
    batch = {"tokens": tokens(rows, length, vocab_size), "valid": np.ones(rows, bool)}
    take, times = trained(objective, batch, rows, "bfloat16", AdamWConfig(moments=moments)), []
    for _ in range(3):
        loss = float(take())
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(given.steps):
            loss = take()
        loss = float(loss)
        times.append((time.perf_counter() - started) / given.steps)
    return statistics.median(times), loss


def report(shape: Shape, config: DecoderConfig, length: int, rate: float, peak: float | None) -> None:
    """Tokens/s of one device, MFU in both conventions, and what is stated by others."""
    share = lambda name: (
        rate * decoder_flops_per_token(config, shape.vocab_size, length, name) / peak if peak else float("nan")
    )
    causal, full = share("matmul_causal"), share("matmul_full")
    print(f"{rate:,.0f} tokens/s per device, MFU {causal:.1%} causal, {full:.1%} full")
    if shape.rate:
        print(
            f"{rate / shape.rate:.2f} x the {shape.rate:,} tokens/s to reach, {rate / shape.stretch:.2f} x {shape.stretch:,}"
        )
    if shape.utilisation:
        print(f"{full / shape.utilisation:.2f} x the {shape.utilisation:.1%} MFU (full) to reach")


if __name__ == "__main__":
    main()
