"""Rows of a batch that meet all others without being gathered: blocks of them travel around the groups of devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from pretrainx.parallel.rules import in_force


def around(meet: Callable, rows: Any, travelling: Any, shared: Any, start: Callable[[Any], Any]) -> Any:
    """What `meet(carry, rows, block, shared)` makes of a carry once it has met every block of `travelling`.

    rows, travelling: trees of arrays [N, ...], laid over devices as rows of a batch are: each group of devices keeps its own
    `rows`, and sees the others' blocks one after the other. shared: a tree that is the same everywhere. start: the first
    carry of a group's rows, arrays [n, ...]. Returns the last carry, arrays [N, ...].

    What `meet` makes of a block is made again in the backward pass; of the blocks themselves a group keeps what went by it.
    """
    rules = in_force()
    axes = () if rules is None else tuple(axis for axis in rules.axes("batch") if rules.mesh.shape[axis] > 1)
    first = jax.tree.leaves(rows)[0]
    if not axes or first.shape[0] % rules.batch_ways():
        return meet(start(rows), rows, travelling, shared)
    count = rules.batch_ways()
    onward = [(number, (number + 1) % count) for number in range(count)]

    def of_group(rows, travelling, shared):
        @jax.checkpoint
        def each(state, _):
            carry, block = state
            carry = meet(carry, rows, block, shared)
            return (carry, jax.tree.map(lambda x: jax.lax.ppermute(x, axes, onward), block)), None

        (carry, _), _ = jax.lax.scan(each, (start(rows), travelling), None, length=count)
        return carry

    split, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(
        of_group,
        mesh=rules.mesh,
        in_specs=(split, split, whole),
        out_specs=split,
        axis_names=set(axes),
        check_vma=False,
    )(rows, travelling, shared)
