"""The sizes that pictures have in their source, before any is cropped or resized: counted for data.json, and told."""

from __future__ import annotations

from typing import Any

import numpy as np


def counted(sizes: np.ndarray, wanted: int) -> dict[str, Any]:
    """What data.json says of int64[n, 2], heights and widths of at least one picture.

    The side of a picture is the shorter one, that of the square which is cut from it.

    Args:
      wanted: the side that they are resized to, or 0: they stay as they are.

    Returns {"smallest", "largest": [height, width] by the side, "median_side", "cropped": how many are not square,
    "enlarged": how many have a smaller side than is wanted}.
    """
    side, longer = sizes.min(1), sizes.max(1)
    order = np.lexsort((sizes[:, 0], longer, side))
    return {
        "smallest": sizes[order[0]].tolist(),
        "median_side": float(np.median(side)),
        "largest": sizes[order[-1]].tolist(),
        "cropped": int((side != longer).sum()),
        "enlarged": int((side < wanted).sum()),
    }


def told(facts: dict[str, Any]) -> str:
    """A line on what `counted` gave."""
    smallest, largest = (" x ".join(map(str, facts[name])) for name in ("smallest", "largest"))
    return (
        f"height x width in the source {smallest} to {largest}, median side {facts['median_side']:g}; "
        f"{facts['cropped']:,} not square and cropped, {facts['enlarged']:,} smaller and enlarged"
    )
