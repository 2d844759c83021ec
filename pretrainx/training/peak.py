"""The peak rate of a device, against which model FLOPs utilisation is stated."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from pretrainx.parallel.chips import PEAKS


def peak_flops(devices, dtype: str) -> float | None:
    """FLOP/s of all devices together; None where unknown.

    A CPU is measured: the best of twenty 1536 x 1536 matrix products in `dtype`, for the whole host (simulated devices share
    it). That is what its library reaches, so MFU on a CPU reads "share of a plain matrix product's speed".
    """
    kind = devices[0].device_kind
    if kind in PEAKS:
        return PEAKS[kind] * len(devices)
    return measured(dtype) if devices[0].platform == "cpu" else None


def measured(dtype: str, size: int = 1536, times: int = 20) -> float:
    x = jnp.ones((size, size), dtype)
    wider = jnp.promote_types(dtype, jnp.float32)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=wider))
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
