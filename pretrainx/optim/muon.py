"""Muon on the matrices that a role names, another transform on the rest.

optax's own partition goes by rank, which lies in a scanned stack: by default it would put Muon on the embedding alone and
Adam on every hidden kernel. Here the logical axes say what is a matrix, which dimensions are its input and output, and that
`layers` is a batch of them.
"""

from __future__ import annotations

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from pretrainx.core import axes, paths
from pretrainx.optim import per_layer


def dimensions(names: axes.Names) -> MuonDimensionNumbers:
    """Which dimensions of a kernel are contracted and which come out; the others (`layers`) are separate matrices."""
    inputs, outputs = per_layer.sides(names)
    return MuonDimensionNumbers(inputs, outputs)


def matched_to_adam(by_path: dict[str, axes.Names]) -> optax.GradientTransformation:
    """Scales an orthogonal update by 0.2 sqrt(larger side): its entries get the size that Adam's have."""

    def scale(path, update):
        larger = max(per_layer.folded_shape(by_path[path], update.shape)[-2:])
        return update * (0.2 * larger**0.5)

    return optax.stateless(lambda updates, _: paths.map_leaves(scale, updates))


def by_role(by_path: dict[str, axes.Names], momentum: float, rest: optax.GradientTransformation):
    """Muon for leaves of role `kernel`, `rest` for all others. State: {"hidden": ..., "rest": ...}."""
    hidden = lambda path: axes.role(by_path[path]) == "kernel"
    numbers = lambda tree: paths.map_leaves(lambda path, _: dimensions(by_path[path]), tree)
    orthogonal = scale_by_muon(beta=momentum, weight_dimension_numbers=numbers)
    chain = optax.chain(orthogonal, matched_to_adam(by_path))

    def init(params):
        matrices, others = paths.split(params, hidden)
        return {"hidden": chain.init(matrices), "rest": rest.init(others)}

    def update(updates, state, params=None):
        matrices, others = paths.split(updates, hidden)
        matrices, after_hidden = chain.update(matrices, state["hidden"])
        others, after_rest = rest.update(others, state["rest"])
        restored = paths.merge(matrices, others)
        return jax.tree.map(lambda _, new: new, updates, restored), {"hidden": after_hidden, "rest": after_rest}

    return optax.GradientTransformation(init, update)
