"""What lies whole on every device although the mesh divides weights: the rule table has no axis for it. With its bytes."""

from __future__ import annotations

from collections.abc import Iterator

import jax

from pretrainx.core import paths
from pretrainx.core.axes import Names
from pretrainx.core.leaves import bytes_of, bytes_on_device
from pretrainx.optim import moments
from pretrainx.parallel.rules import Rules
from pretrainx.training.state import Layout, TrainState

LARGE = 2**20  # bytes from which a leaf is worth a line
SHOWN = 8


def lines(state: TrainState, found: Layout, rules: Rules) -> list[str]:
    """A line for each large leaf of the (abstract) state that no device has less than all of: path, bytes, axes; the largest
    first, and then what such leaves are of all that a device holds. Nothing on a mesh that divides no weights.

    Leaves that `state.fallbacks` tells of, and their moments, are only counted.
    """
    names_of_weights = {name for _, names in found.params_axes for name in names}
    if all(rules.mesh.shape[axis] == 1 for name in names_of_weights for axis in rules.axes(name)):
        return []
    each = list(_leaves(state, found))
    held = bytes_on_device([leaf for _, leaf, _ in each])
    whole = [
        (bytes_of(leaf), path, names, leaf.shape) for path, leaf, names in each if leaf.sharding.is_fully_replicated
    ]
    told = [
        (size, f"{path}: {size} bytes are whole on each device (axes {', '.join(map(str, names)) or 'none'})")
        for size, path, names, shape in whole
        if size >= LARGE and not (names and rules.indivisible(names, shape))
    ]
    told.sort(key=lambda each: -each[0])
    total = sum(size for size, *_ in whole)
    if not told:
        return []
    more = f", {len(told) - SHOWN} more of over {LARGE} bytes among them" if len(told) > SHOWN else ""
    share = f"whole on each of {rules.mesh.size} devices: {total} bytes, {total / held:.1%} of what one holds{more}"
    return [line for _, line in told[:SHOWN]] + [share]


def _leaves(state: TrainState, found: Layout) -> Iterator[tuple[str, jax.ShapeDtypeStruct, Names]]:
    """(path, leaf, logical axes) of all but counters; () of what an optimizer keeps in a form of its own."""
    axes, shapes = dict(found.params_axes), {path: leaf.shape for path, leaf in paths.leaves(found.params)}
    for section, tree in (("params", state.params), ("params", state.frozen), ("ema", state.ema)):
        yield from ((f"{section}/{path}", leaf, axes[path]) for path, leaf in paths.leaves(tree))
    owners = dict(paths.leaves(paths.names_of(moments.owners(state.opt_state, shapes))))
    for path, leaf in paths.leaves(paths.names_of(state.opt_state)):
        yield f"optimizer/{path}", leaf, axes.get(owners[path], ())
    axes = dict(found.extras_axes)
    yield from ((f"extras/{path}", leaf, axes[path]) for path, leaf in paths.leaves(state.extras))
