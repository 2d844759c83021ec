"""What a parameter is, read from its logical axis names: its role, and its shape as a matrix.

Ranks lie: in a scanned stack a norm has rank 2 and a head kernel rank 4. Names do not.
"""

from __future__ import annotations

from flax import linen as nn

from pretrainx.core import paths

Names = tuple[str | None, ...]
# Dimensions that are one dimension of a matrix, stored apart: [embed, heads, head_dim] is embed x (heads * head_dim).
TOGETHER = ("heads", "head_dim")
TABLES = ("vocab", "position", "type", "prompt")
HEADS = ("vocab", "classes", "routes")
# Of numbers that are added and multiply nothing: a bias per output, or per head and bucket of distances.
BIASES = (*TOGETHER, "bucket")
# Rows of a table that is added whole to a picture's tokens, none of them looked up: a bias per place, which is not decayed.
PLACES = ("place",)
# Along these, parameters are stacked: each index is a parameter of its own.
STACKS = ("layers", "experts")


def without_stacks(names: Names) -> Names:
    return tuple(name for name in names if name not in STACKS)


def role(names: Names) -> str:
    """kernel, bias, norm, embedding, head or scalar."""
    names = without_stacks(names)
    if not names:
        return "scalar"
    if names == ("norm",):
        return "norm"
    if set(names) <= set(BIASES) or len(names) == 1 or names[0] in PLACES:
        return "bias"
    if names[0] in TABLES:
        return "embedding"
    return "head" if names[-1] in HEADS else "kernel"


def matrix_shape(names: Names, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The leaf's shape without STACKS and with heads folded: two numbers for anything that multiplies a vector."""
    folded: list[tuple[str | None, int]] = []
    for name, size in zip(names, shape, strict=True):
        if name in STACKS:
            continue
        if folded and name == "head_dim" and folded[-1][0] == "heads":
            folded[-1] = ("heads", folded[-1][1] * size)
        else:
            folded.append((name, size))
    return tuple(size for _, size in folded)


def of_boxed(tree: paths.Tree) -> tuple[tuple[str, Names], ...]:
    """((path, axis names), ...) of a boxed tree: hashable, so it may be part of a static argument.

    Raises ValueError naming a leaf without axes or with another number of axes than dimensions.
    """
    table = []
    for path, leaf in paths.leaves(tree):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            raise ValueError(f"{path} has no logical axis names: wrap its initialiser in nn.with_logical_partitioning")
        if len(leaf.names) != len(leaf.value.shape):
            raise ValueError(f"{path} has axes {leaf.names} for shape {leaf.value.shape}")
        table.append((path, tuple(leaf.names)))
    return tuple(table)


def unbox(tree: paths.Tree) -> paths.Tree:
    """The arrays without their boxes."""
    return paths.map_leaves(lambda _, leaf: leaf.value if isinstance(leaf, nn.LogicallyPartitioned) else leaf, tree)


def boxed(value, *names: str | None) -> nn.LogicallyPartitioned:
    """An array with its logical axis names, as `init` and `start` must return them."""
    return nn.LogicallyPartitioned(value, names)
