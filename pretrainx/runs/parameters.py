"""The table of parameters: what each leaf is, how it is trained, and how it lies on the devices."""

from __future__ import annotations

import math

from pretrainx.adapt.mixture import plain_tasks
from pretrainx.core import axes, paths
from pretrainx.optim import table
from pretrainx.runs.parts import Parts


def lines(parts: Parts) -> list[str]:
    """The optimizer's table with what is stored and its sharding beside each leaf, and the counts that people quote."""
    shapes = dict(paths.leaves(parts.found.params))
    names = dict(parts.found.params_axes)
    frozen = frozenset(path for path in shapes if not parts.objective.trains(path))
    left = table.lines(parts.optimizer, {path: leaf.shape for path, leaf in shapes.items()}, frozen)
    right = [("stored", "dtype", "sharding")]
    for path in sorted(shapes):
        leaf = shapes[path]
        stored = "x".join(map(str, leaf.shape)) or "scalar"
        right.append((stored, str(leaf.dtype), str(tuple(parts.rules.spec(names[path], leaf.shape)))))
    right += [("", "", "")] * (len(left) - len(right))
    widths = [max(map(len, column)) for column in zip(*right, strict=True)]
    width = max(map(len, left))
    text = [
        "  ".join([line.ljust(width), *(cell.ljust(size) for cell, size in zip(cells, widths, strict=True))]).rstrip()
        for line, cells in zip(left, right, strict=True)
    ]
    if parts.vocab_size is None:
        return text
    counted = {path: _count(names[path], leaf.shape, parts.vocab_size) for path, leaf in shapes.items()}
    total = sum(counted.values())
    tables = sum(count for path, count in counted.items() if axes.role(names[path]) == "embedding")
    text.append(f"without the padding of vocabulary tables {total:,}, and without embeddings {total - tables:,}")
    of_experts = sum(count for path, count in counted.items() if "experts" in names[path])
    if of_experts:
        experts = plain_tasks(parts.objective)[0].model.config.experts  # the tasks of a mixture share the model
        idle = of_experts * (experts.count - experts.chosen) // experts.count
        text.append(f"a token goes through {total - idle:,}: {experts.chosen} of {experts.count} experts in each block")
    return text


def _count(names: axes.Names, shape: tuple[int, ...], vocab_size: int) -> int:
    return math.prod(vocab_size if name == "vocab" else size for name, size in zip(names, shape, strict=True))
