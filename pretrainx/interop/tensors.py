"""A table between our leaves and the tensors of another library, and the two directions through it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pretrainx.core import paths
from pretrainx.core.errors import DataError


@dataclass(frozen=True)
class Row:
    """One tensor of theirs, or one per layer, and what it is of ours.

    Attributes:
      theirs: its name; "{}" stands for the layer's number.
      ours: paths of the leaves that lie in it side by side along the outputs: one, or query, key and value where fused.
      inputs, outputs: dimensions of each of ours without layers, such as (D,) and (H, K); a vector has no inputs, a
        number neither.
      transposed: theirs is [outputs, inputs], as torch.nn.Linear stores it.
      vocab: the number of their ids, where inputs (a table) or, of a transposed one or a vector, outputs (a head) are our
        padded vocabulary; else 0.
      layers: how many there are, ours being stacked along them; 0 for what no layer owns.
      leading: how many dimensions of size 1 theirs has in front.
    """

    theirs: str
    ours: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    transposed: bool = False
    vocab: int = 0
    layers: int = 0
    leading: int = 0

    @property
    def folded(self) -> tuple[int, int]:
        """Our shape as a matrix, the vocabulary not padded. A vector is a matrix of one row."""
        inputs, outputs = math.prod(self.inputs), math.prod(self.outputs)
        if not self.vocab:
            return inputs, outputs
        return (inputs, self.vocab) if self.transposed or not self.inputs else (self.vocab, outputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of their tensor."""
        inputs, outputs = self.folded
        both = (inputs, outputs * len(self.ours))
        shape = both[1:] if not self.inputs else both[::-1] if self.transposed else both
        if not self.inputs + self.outputs:
            shape = ()
        return (1,) * self.leading + shape

    @property
    def names(self) -> list[str]:
        return [self.theirs.format(layer) for layer in range(self.layers)] if self.layers else [self.theirs]

    def to_ours(self, tensor: np.ndarray) -> list[np.ndarray]:
        """Their tensor as leaves of one layer; padded ids are rows of zeros."""
        matrix = tensor.T if self.transposed else tensor.reshape(-1, math.prod(tensor.shape[-1:]))
        parts = np.split(matrix, len(self.ours), axis=1)
        return [self._padded(part).reshape(self.inputs + self.outputs) for part in parts]

    def to_theirs(self, leaves: list[np.ndarray]) -> np.ndarray:
        """The inverse; rows of padded ids are cut off."""
        inputs, outputs = self.folded
        fold = lambda leaf: leaf.reshape(math.prod(self.inputs), math.prod(self.outputs))[:inputs, :outputs]
        matrix = np.concatenate([fold(leaf) for leaf in leaves], axis=1)
        return np.ascontiguousarray(matrix.T if self.transposed else matrix).reshape(self.shape)

    def _padded(self, matrix: np.ndarray) -> np.ndarray:
        missing = (math.prod(self.inputs) - matrix.shape[0], math.prod(self.outputs) - matrix.shape[1])
        return np.pad(matrix, [(0, count) for count in missing])


@dataclass(frozen=True)
class Patches(Row):
    """A convolution [D, C, P, P] whose windows do not overlap: a matrix of patches in our order, row, column, channel.

    Attributes:
      side: P, in pixels; channels: C.
    """

    side: int = 0
    channels: int = 3

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.outputs, self.channels, self.side, self.side)

    def to_ours(self, tensor: np.ndarray) -> list[np.ndarray]:
        return [tensor.transpose(2, 3, 1, 0).reshape(self.inputs + self.outputs)]

    def to_theirs(self, leaves: list[np.ndarray]) -> np.ndarray:
        (leaf,) = leaves
        return np.ascontiguousarray(leaf.reshape(self.side, self.side, self.channels, -1).transpose(3, 2, 0, 1))


def norm(theirs: str, ours: str, width: int, layers: int = 0, bias: bool = True) -> tuple[Row, ...]:
    """The rows of a norm."""
    scale = Row(f"{theirs}.weight", (f"{ours}/scale",), (), (width,), layers=layers)
    return (scale, Row(f"{theirs}.bias", (f"{ours}/bias",), (), (width,), layers=layers)) if bias else (scale,)


def linear(
    theirs: str, ours: str, inputs: tuple[int, ...], outputs: tuple[int, ...], layers: int = 0, bias: bool = True
) -> tuple[Row, ...]:
    """The rows of a torch.nn.Linear."""
    kernel = Row(f"{theirs}.weight", (f"{ours}/kernel",), inputs, outputs, True, layers=layers)
    return (kernel, Row(f"{theirs}.bias", (f"{ours}/bias",), (), outputs, layers=layers)) if bias else (kernel,)


def read(table: tuple[Row, ...], tensors: Mapping[str, np.ndarray], where: str) -> paths.Tree:
    """Our parameters, in the widest dtype of the tensors.

    Raises DataError listing every tensor that is missing, of another shape, or not used.
    """
    expected = {name: row.shape for row in table for name in row.names}
    problems = [
        f"{name}: missing, expected {list(expected[name])}" for name in sorted(expected.keys() - tensors.keys())
    ]
    problems += [f"{name}: not used, {list(tensors[name].shape)}" for name in sorted(tensors.keys() - expected.keys())]
    problems += [
        f"{name}: {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise DataError(
            "the tensors are not those of the model that the configuration describes",
            where=where,
            why="\n".join(problems),
            do="give weights and configuration of one and the same model",
        )
    return paths.from_leaves(_leaves(table, tensors))


def _leaves(table: tuple[Row, ...], tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for row in table:
        layers = [row.to_ours(tensors[name]) for name in row.names]
        for index, path in enumerate(row.ours):
            parts = [layer[index] for layer in layers]
            yield path, np.stack(parts) if row.layers else np.asarray(parts[0], order="C")


def write(table: tuple[Row, ...], params: paths.Tree, where: str) -> dict[str, np.ndarray]:
    """Their tensors by name. Raises DataError listing leaves that are not in the table (of a wrapper, say) or missing."""
    leaves = {path: np.asarray(leaf) for path, leaf in paths.leaves(params)}
    known = {path for row in table for path in row.ours}
    if leaves.keys() != known:
        lines = [f"{path}: has no place there" for path in sorted(leaves.keys() - known)]
        lines += [f"{path}: missing" for path in sorted(known - leaves.keys())]
        raise DataError(
            "the parameters are not those of the bare model",
            where=where,
            why="\n".join(lines),
            do="merge what was added to the model into its weights first",
        )
    tensors = {}
    for row in table:
        for layer, name in enumerate(row.names):
            tensors[name] = row.to_theirs([leaves[path][layer] if row.layers else leaves[path] for path in row.ours])
    return tensors
