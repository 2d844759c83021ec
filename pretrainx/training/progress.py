"""The progress line: plain text, one per logged step."""

from __future__ import annotations

import math

from pretrainx.core.readable import duration, quantity

__all__ = ["duration", "line", "quantity"]

_GIBIBYTE = 2**30


def line(
    step: int,
    steps: int,
    loss: float,
    grad_norm: float,
    learning_rate: float,
    rate: float,
    rate_unit: str,
    mfu: float | None,
    data_wait: float,
    eta_seconds: float | None,
    memory_bytes: int | tuple[int, int] | None = None,
) -> str:
    """`step 1200/20000 6.0% | loss 3.214 | gnorm 0.87 | lr 3.0e-4 | 41.2k tok/s | mfu 38.1% | data 0.4% | eta 3h12m`.

    Args:
      rate, rate_unit: per second, such as 41200 and "tok/s".
      mfu: model FLOPs utilisation, a fraction of 1; None leaves it out.
      data_wait: the fraction of the time spent waiting for data.
      memory_bytes: in use, or (in use, available), shown in GiB; None leaves it out.
    """
    parts = [
        f"step {step}/{steps} {100 * step / max(steps, 1):.1f}%",
        f"loss {_fixed(loss, 3)}",
        f"gnorm {_fixed(grad_norm, 2)}",
        f"lr {_scientific(learning_rate)}",
        f"{quantity(rate)} {rate_unit}",
        f"mfu {100 * mfu:.1f}%" if mfu is not None else "",
        f"data {100 * data_wait:.1f}%",
        f"mem {_memory(memory_bytes)}" if memory_bytes is not None else "",
        f"eta {duration(eta_seconds)}",
    ]
    return " | ".join(filter(None, parts))


def _fixed(value: float, digits: int) -> str:
    """Fixed point; two significant digits where that would show nothing of a small value or too much of a large one."""
    size = abs(value)
    if math.isfinite(value) and value != 0 and (size < 10 ** (1 - digits) or size >= 1e5):
        return _scientific(value)
    return f"{value:.{digits}f}"


def _scientific(value: float) -> str:
    """3e-4 -> "3.0e-4": no padding of the exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def _memory(memory: int | tuple[int, int]) -> str:
    sizes = memory if isinstance(memory, tuple) else (memory,)
    return "/".join(f"{size / _GIBIBYTE:.1f}" for size in sizes) + "G"
