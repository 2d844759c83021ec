"""Tables of another run fitted to this one: positions of longer rows or larger pictures, words of another vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np

from pretrainx.core.axes import Names

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Resizing:
    """A change of one leaf, and what it is, in words."""

    what: str
    change: Callable[[np.ndarray], np.ndarray]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return self.change(array)


def resizing(path: str, names: Names, old: Shape, new: Shape, words: np.ndarray | None) -> Resizing | None:
    """How a leaf of the shape `old` becomes one of the shape `new`; None where it does not.

    words: int[V], for each id here that of the same word there, -1 where there is none; None where both are the same.
    """
    axis = next((names.index(name) for name in ("vocab", "position", "place") if name in names), None)
    if axis is None or len(old) != len(new) or old[:axis] + old[axis + 1 :] != new[:axis] + new[axis + 1 :]:
        return None
    count = new[axis]
    moved = lambda change: lambda array: np.moveaxis(change(np.moveaxis(np.asarray(array), axis, 0)), 0, axis)
    if names[axis] == "vocab":
        ids = np.arange(min(old[axis], count)) if words is None else words[:count]
        known = int((ids >= 0).sum())
        return Resizing(f"{known} words of {count} rows taken, the others are their mean", moved(rows_of(ids, count)))
    if names[axis] == "position":
        change = moved(lambda table: longer(table, count, path))
        return Resizing(f"{min(old[axis], count)} positions taken of {old[axis]}, {count} here", change)
    grids = grid_of(old[axis]), grid_of(count)
    if None in grids or grids[0][0] != grids[1][0]:
        return None
    (marks, before), (_, after) = grids
    change = moved(lambda table: other_grid(table, marks, before, after))
    return Resizing(f"a grid of {before} x {before} places made {after} x {after}, bicubic", change)


def rows_of(ids: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rows of a table by the ids of their words there; new words start as the mean of all that are known."""

    def change(table: np.ndarray) -> np.ndarray:
        known = ids >= 0
        # In float64: the mean of 30,000 rows of bfloat16 would be another number.
        mean = table[ids[known]].astype(np.float64).mean(0).astype(table.dtype)
        found = np.broadcast_to(mean, (count, *table.shape[1:])).copy()
        found[np.flatnonzero(known)] = table[ids[known]]
        return found

    return change


def longer(table: np.ndarray, count: int, path: str) -> np.ndarray:
    """The first `count` rows of a table of positions; those beyond it are drawn with its own spread."""
    rng = np.random.default_rng(list(path.encode()))
    drawn = rng.normal(0, table.astype(np.float64).std(), (max(count - len(table), 0), *table.shape[1:]))
    return np.concatenate([table[:count], drawn.astype(table.dtype)])


def grid_of(rows: int) -> tuple[int, int] | None:
    """(tokens before the patches, patches along a side) of a table with so many rows; None where it is no square."""
    for marks in (0, 1):
        side = math.isqrt(max(rows - marks, 0))
        if side and side * side == rows - marks and (marks == 0 or rows > 2):
            return marks, side
    return None


def other_grid(table: np.ndarray, marks: int, before: int, after: int) -> np.ndarray:
    """A table [marks + before^2, D] for another grid, bicubic; marks stay (Dosovitskiy et al. 2021, section 3.2)."""
    grid = table[marks:].reshape(before, before, -1).astype(np.float32)
    grid = jax.image.resize(grid, (after, after, grid.shape[-1]), "bicubic")
    return np.concatenate([table[:marks], np.asarray(grid).reshape(after * after, -1).astype(table.dtype)])
