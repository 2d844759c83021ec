"""Layer-wise learning rates: the deeper a block lies under the head, the smaller its rate (Clark et al. 2020, section 3.1),
or the later it joins the training (unfreezing.py).

The blocks of a stack are one leaf, so the rates of its layers are an array along `layers`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.optim.algorithms import Group

WHERE = "config.optimizer.groups"


def check(group: Group, found: list[str], by_path: dict[str, axes.Names]) -> None:
    """ConfigError where none of the leaves found lies in a stack."""
    if not any("layers" in by_path[path] for path in found):
        raise ConfigError(
            "layer_decay or unfreeze_every without layers",
            where=WHERE,
            why=f"of what {group.pattern!r} matches ({found[0]} and {len(found) - 1} more) nothing is a stack of equal blocks",
            do="give groups of `rate` to the stages by their paths, or let the pattern match a stack",
        )


def depth(shapes: Iterable[tuple[str, tuple[int, ...]]], by_path: dict[str, axes.Names]) -> int:
    """Blocks of the deepest stack among leaves ((path, shape), ...); 0 where there is none."""
    stacked = ((by_path[path], shape) for path, shape in shapes if "layers" in by_path[path])
    return max((shape[names.index("layers")] for names, shape in stacked), default=0)


def factors(
    group: Group, shapes: dict[str, tuple[int, ...]], by_path: dict[str, axes.Names], depth: int
) -> dict[str, float | np.ndarray]:
    """{path: multiplier} of the group's leaves, in the form of `levels`."""
    return {path: group.layer_decay**level for path, level in levels(group, shapes, by_path, depth).items()}


def levels(
    group: Group, shapes: dict[str, tuple[int, ...]], by_path: dict[str, axes.Names], depth: int
) -> dict[str, float | np.ndarray]:
    """{path: how deep it lies under the head} of the group's leaves: 0 outside of stacks, 1 for the last block.

    float64[L] with ones behind it, to broadcast, for those of a stack. depth: blocks above the inputs.
    """
    stacked = {path: by_path[path].index("layers") for path in shapes if "layers" in by_path[path]}
    found: dict[str, float | np.ndarray] = {}
    for path, shape in shapes.items():
        if path in stacked:
            layers = shape[stacked[path]]
            along = [layers if dimension == stacked[path] else 1 for dimension in range(len(shape))]
            found[path] = np.arange(layers, 0, -1.0).reshape(along)
        elif group.is_input(path):
            if not depth:
                raise ConfigError(
                    f"layer_decay or unfreeze_every of {path}, whose blocks are not trained",
                    where=WHERE,
                    why=f"all stacks that {group.pattern!r} matches are frozen, so there is no depth to count",
                    do="leave both out, and set the `rate` of this parameter",
                )
            found[path] = depth + 1.0
        else:
            found[path] = 0.0
    return found
