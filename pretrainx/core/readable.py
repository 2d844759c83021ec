"""Numbers as people read them: `41.2k`, `3h12m`, `1.50 GiB`."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantity(value: float) -> str:
    """Three or four digits and a suffix: 41200 -> "41.2k", 124e6 -> "124.0M", 1.3e9 -> "1.3B"; below 1000 as it is."""
    if not math.isfinite(value):
        return str(value)
    left, suffix = abs(value), ""
    for next_suffix in ("k", "M", "B", "T"):
        if left < 999.95:  # what would round to 1000.0 takes the next suffix
            break
        left, suffix = left / 1000, next_suffix
    text = f"{left:.1f}{suffix}" if suffix else _small(left)
    return "-" + text if value < 0 else text


def _small(value: float) -> str:
    if value == int(value) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes in binary units: "12.50 MiB", and from a tenth of one on "1,234.50 GiB"."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:,.2f} MiB"


def duration(seconds: float | None) -> str:
    """The two largest units: "45s", "12m05s", "3h12m", "2d03h"; "?" for what is not known."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def aligned(rows: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """A line for each row, columns as wide as their widest cell, cells to the left or to the right of theirs."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    place = str.rjust if right else str.ljust
    return ["  ".join(map(place, row, widths)).rstrip() for row in rows]
