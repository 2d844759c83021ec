"""Keeps the C library from giving memory back between steps on a CPU.

XLA allocates its temporaries anew at each execution; glibc maps and unmaps them, which costs 100,000 page faults a step and a
quarter of a small model's time. The price: the process keeps its high-water memory.
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h


def keep_freed_memory() -> bool:
    """Sets glibc's allocator for a CPU run; call before the first computation. Returns whether it did.

    Nothing is done beside an accelerator, without glibc, or with PRETRAINX_KEEP_MEMORY=0 in the environment.
    """
    accelerated = glob.glob("/dev/nvidia[0-9]*") or glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    chosen = os.environ.get("JAX_PLATFORMS", "cpu").split(",")[0] == "cpu"
    if sys.platform != "linux" or not chosen or (accelerated and "JAX_PLATFORMS" not in os.environ):
        return False
    if os.environ.get("PRETRAINX_KEEP_MEMORY") == "0":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1)])
