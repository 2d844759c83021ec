"""One layer at a time: in a scanned stack a leaf holds L parameters, and what an optimizer does with the size or the sides
of a parameter is done with each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import optax

from pretrainx.core import axes, paths

MATRICES = ("kernel", "head", "embedding")


def stacks(names: axes.Names) -> tuple[int, ...]:
    """The dimensions along which parameters are stacked: each index of them is a parameter of its own."""
    return tuple(index for index, name in enumerate(names) if name in axes.STACKS)


def sides(names: axes.Names) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(dimensions of a matrix's input, of its output); those of a stack are in neither.

    Inputs come first: [embed, heads, head_dim] maps embed to heads, [heads, head_dim, embed] heads to embed, and the
    unnamed window of a convolution [None, None, embed, mlp] is part of the input.
    """
    kept = [index for index in range(len(names)) if index not in stacks(names)]
    unnamed = next((place for place, index in enumerate(kept) if names[index] is not None), 0)
    first = unnamed + (2 if names[kept[unnamed]] == "heads" else 1)
    first = min(first, len(kept) - 1)
    return tuple(kept[:first]), tuple(kept[first:])


def is_matrix(names: axes.Names) -> bool:
    return axes.role(names) in MATRICES


def folded_shape(names: axes.Names, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a matrix leaf as [*stacks, inputs, outputs]."""
    size = lambda dimensions: math.prod(shape[index] for index in dimensions)
    return (*(shape[index] for index in stacks(names)), *map(size, sides(names)))


def folded(names: axes.Names, array: jax.Array) -> jax.Array:
    """A matrix leaf as [*stacks, inputs, outputs]."""
    inputs, outputs = sides(names)
    return array.transpose(*stacks(names), *inputs, *outputs).reshape(folded_shape(names, array.shape))


def unfolded(names: axes.Names, matrices: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `folded`: the leaf of this shape."""
    order = (*stacks(names), *(index for side in sides(names) for index in side))
    moved = matrices.reshape(tuple(shape[index] for index in order))
    return moved.transpose(tuple(order.index(index) for index in range(len(order))))


def mapped(function: Callable, dimensions: tuple[int, ...]) -> Callable:
    """`function` applied to each index of these dimensions (ascending) of its arrays."""
    for dimension in dimensions:  # the last is the outermost map: what it takes away leaves the lower numbers right
        function = jax.vmap(function, in_axes=dimension, out_axes=dimension)
    return function


def each(
    transform: optax.GradientTransformation, by_path: dict[str, axes.Names], chosen: Callable = lambda names: True
):
    """A transform without state, applied to every single parameter whose axis names are `chosen`.

    optax's norms and root mean squares go by leaves: given a stack they would mix its layers.
    """
    alone = lambda update, param: transform.update(update, optax.EmptyState(), param)[0]

    def apply(updates, params):
        leaf = dict(paths.leaves(params))

        def one(path, update):
            names = by_path[path]
            return mapped(alone, stacks(names))(update, leaf[path]) if chosen(names) else update

        return paths.map_leaves(one, updates)

    return optax.stateless(apply)
