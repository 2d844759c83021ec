"""What the optimizer does with each parameter, as text to read before a long run."""

from __future__ import annotations

import math

import numpy as np

from pretrainx.optim import per_layer
from pretrainx.optim.optimizer import Optimizer

HEADER = ("parameter", "role", "shape", "groups", "update", "rate", "decay", "count", "share")


def lines(optimizer: Optimizer, shapes: dict[str, tuple[int, ...]], frozen: frozenset[str] = frozenset()) -> list[str]:
    """An aligned table: a header, every leaf in order of its path, the sums.

    `shape` is one layer's as a matrix, behind the number of layers; `groups` are the numbers of the config's groups that
    the leaf is in; `update` is the algorithm, or frozen; `rate` multiplies the learning rate (of layer-wise rates those of
    the first and the last layer); `decay` is the weight decay before the learning rate; `share` is of all parameters,
    frozen ones too.
    """
    counts = {path: math.prod(shapes[path]) for path, _ in optimizer.leaves}
    total = max(sum(counts.values()), 1)
    rows = []
    for path, role, matrix, rate, decay in sorted(optimizer.table(shapes)):
        names = optimizer.by_path[path]
        stack = "".join(f"{shapes[path][index]} x " for index in per_layer.stacks(names))
        groups = ",".join(map(str, optimizer.groups(path))) or "-"
        numbers = (optimizer.config.algorithm(names, shapes[path]), _rate(rate), f"{decay:.6g}")
        update = ("frozen", "-", "-") if path in frozen else numbers
        rows.append((path, role, f"{stack}{list(matrix)}", groups, *update, *_count(counts[path], total)))
    still = sum(counts[path] for path in counts if path in frozen)
    blank = ("",) * 6
    rows.append(("trained", *blank, *_count(sum(counts.values()) - still, total)))
    if frozen:
        rows.append(("frozen", *blank, *_count(still, total)))
        rows.append(("all", *blank, *_count(sum(counts.values()), total)))
    return _aligned([HEADER, *rows])


def _rate(rate: float | np.ndarray) -> str:
    """One number, or those of the first and the last layer."""
    numbers = np.unique(rate)
    return f"{numbers[0]:.6g}" if len(numbers) == 1 else f"{np.ravel(rate)[0]:.3g} to {np.ravel(rate)[-1]:.3g}"


def _count(number: int, total: int) -> tuple[str, str]:
    return f"{number:,}", f"{number / total:.2%}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns padded to their widest cell: words to the left, numbers (the last four columns) to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = len(HEADER) - 4
    pad = lambda cell, index: cell.rjust(widths[index]) if index >= numbers else cell.ljust(widths[index])
    return ["  ".join(pad(cell, index) for index, cell in enumerate(row)).rstrip() for row in rows]
