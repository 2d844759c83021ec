"""Trees of nested dicts, addressed by paths such as `layers/attention/query/kernel`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax

from pretrainx.core.errors import ConfigError, nearest

Tree = dict[str, Any]


def leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) pairs in sorted order. Anything that is not a dict is a leaf (boxes are)."""
    for name in sorted(tree):
        path = f"{prefix}/{name}" if prefix else name
        if isinstance(tree[name], dict):
            yield from leaves(tree[name], path)
        else:
            yield path, tree[name]


def from_leaves(pairs) -> Tree:
    """The inverse of `leaves`."""
    tree: Tree = {}
    for path, leaf in pairs:
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def map_leaves(function: Callable[[str, Any], Any], tree: Tree, prefix: str = "") -> Tree:
    """A tree of the same form, empty branches included, with `function(path, leaf)` at each leaf."""
    mapped = {}
    for name in sorted(tree):
        path = f"{prefix}/{name}" if prefix else name
        value = tree[name]
        mapped[name] = map_leaves(function, value, path) if isinstance(value, dict) else function(path, value)
    return mapped


def merge(under: Tree, over: Tree) -> Tree:
    """`over` laid over `under`. Empty subtrees survive (they are part of a state's form)."""
    merged = dict(under)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge(merged[name], value) if both else value
    return merged


def split(tree: Tree, chosen: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """(leaves whose path is chosen, the others), each a tree without empty branches."""
    yes, no = [], []
    for path, leaf in leaves(tree):
        (yes if chosen(path) else no).append((path, leaf))
    return from_leaves(yes), from_leaves(no)


def restrict(tree: Tree, like: Tree) -> Tree:
    """The part of `tree` at the paths that `like` has."""
    return {
        name: restrict(tree[name], value) if isinstance(value, dict) else tree[name] for name, value in like.items()
    }


def matching(pattern: str, paths, where: str) -> list[str]:
    """The paths that the regular expression matches whole; matching none is an error that names the nearest."""
    paths = list(paths)
    try:
        found = [path for path in paths if re.fullmatch(pattern, path)]
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is not a regular expression", where=where, why=str(error), do="mend the pattern"
        ) from error
    if not found:
        raise ConfigError(
            f"the pattern {pattern!r} matches no parameter",
            where=where,
            why=nearest(pattern, paths),
            do="patterns match whole paths: write '.*query/kernel', not 'query'",
        )
    return found


def names_of(tree: Any) -> Tree:
    """Any pytree as nested dicts of its leaves, named by field, key or index (used for optimizer states)."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    return from_leaves((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in pairs)
