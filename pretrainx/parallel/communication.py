"""What each kind of parallelism communicates, on paper: bytes from the sizes of a model and of a mesh, without compiling.

The same records as `collectives.read` gives for a compiled step; tests hold the two against each other. For what the compiler
really does with a run, ask `pretrainx plan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pretrainx.parallel.collectives import Collective


@dataclass(frozen=True)
class Sizes:
    """What of a decoder decides its communication.

    Attributes:
      layers, width: L and D. keys: width of all heads of keys, and as many of values.
      block: weights of a block that multiply; norms and biases are left out.
      table, head: entries of the token table, and of a head that is a matrix of its own (0 where it is the table).
      readers: matrices that read the stream of a block, each of which sends its own gradient back over `tensor`: query, key and
        value, up, and gate.
      recomputed: whether the backward pass computes blocks again (remat "full").
      stored, compute: bytes of a weight and its gradient as stored, and in products.
    """

    layers: int
    width: int
    keys: int
    block: int
    table: int
    head: int
    readers: int = 5
    recomputed: bool = True
    stored: int = 4
    compute: int = 2

    @property
    def weights(self) -> int:
        return self.layers * self.block + self.table + self.head


def step(sizes: Sizes, mesh: Mapping[str, int], tokens: int, microbatches: int = 1) -> tuple[Collective, ...]:
    """The collectives of a train step over the axes data, fsdp, tensor and context of a mesh {axis: size}.

    tokens: of one device in one microbatch.
    """
    found = (
        *fully_sharded(sizes, mesh, microbatches),
        *replicated(sizes, mesh, microbatches),
        *tensor(sizes, mesh, tokens, microbatches),
        *context(sizes, mesh, tokens, microbatches),
    )
    return tuple(each for each in found if each.group > 1 and each.size)


def fully_sharded(sizes: Sizes, mesh: Mapping[str, int], microbatches: int = 1) -> Iterator[Collective]:
    """ZeRO-3 (Rajbhandari et al. 2020): each microbatch gathers every block before its forward and before its backward pass, in
    the dtype of products, and scatters its gradient, as stored. The table is looked up once, as stored; the head's gradient is
    made with the loss, so that it is gathered once."""
    group, parts = mesh.get("fsdp", 1), mesh.get("tensor", 1)

    def make(kind: str, size: int, count: int, where: str) -> Collective:
        return _make(kind, "fsdp", group, size // parts, count * microbatches, where)

    yield make("all-gather", sizes.block * sizes.compute, 2 * sizes.layers, "blocks, forward and backward")
    yield make("all-gather", sizes.table * sizes.stored, 1, "token table")
    yield make("all-gather", sizes.head * sizes.compute, 1, "head")
    yield make("reduce-scatter", sizes.block * sizes.stored, sizes.layers, "gradients of blocks")
    yield make("reduce-scatter", (sizes.table + sizes.head) * sizes.stored, 1, "gradients of table and head")


def replicated(sizes: Sizes, mesh: Mapping[str, int], microbatches: int = 1) -> Iterator[Collective]:
    """Data parallelism: each microbatch's gradients, of the part of the weights that a device holds, summed over replicas."""
    parts = mesh.get("fsdp", 1) * mesh.get("tensor", 1)
    size = math.ceil(sizes.weights * sizes.stored / parts)
    yield _make("all-reduce", "data", mesh.get("data", 1), size, microbatches, "gradients")


def tensor(sizes: Sizes, mesh: Mapping[str, int], tokens: int, microbatches: int = 1) -> Iterator[Collective]:
    """Megatron's split of heads and hidden units (Shoeybi et al. 2019): what attention and MLP write is summed in the forward
    pass, what they read in the backward pass, once for each matrix that reads; beside these the looked-up tokens and the head's
    gradient. A recomputed block sums what attention writes again: what its MLP writes nobody needs."""
    group, size = mesh.get("tensor", 1), tokens * sizes.width * sizes.compute
    count = sizes.layers * (2 + sizes.recomputed + sizes.readers) + 2
    yield _make("all-reduce", "tensor", group, size, count * microbatches, "activations")


def context(sizes: Sizes, mesh: Mapping[str, int], tokens: int, microbatches: int = 1) -> Iterator[Collective]:
    """Rows cut along their length, config.sharding.context="gather": each device gathers the keys and values of whole rows, and
    scatters their gradients; those of the weights are summed over the cuts like over replicas."""
    group, parts = mesh.get("context", 1), mesh.get("tensor", 1)
    size = tokens * group * sizes.keys * sizes.compute // parts
    times, held = 2 * sizes.layers * microbatches, sizes.weights * sizes.stored
    yield _make("all-gather", "context", group, size, times * (1 + sizes.recomputed), "keys and values")
    yield _make("reduce-scatter", "context", group, size, times, "gradients of keys and values")
    yield _make(
        "all-reduce", "context", group, math.ceil(held / parts / mesh.get("fsdp", 1)), microbatches, "gradients"
    )


def _make(kind: str, axis: str, group: int, size: int, count: int, where: str) -> Collective:
    return Collective(kind, (axis,), group, size, count, where=where)
