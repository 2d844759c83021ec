"""Adafactor's second moment: one number per row and per column of each layer's matrix, by role.

optax factors the two largest dimensions of a leaf, which in a scanned stack may be layers and width, and keeps the kernels
of attention heads whole where heads are few. Here a leaf is folded to matrices first, and optax sees one at a time.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from pretrainx.core import axes, paths
from pretrainx.optim import per_layer


def is_factored(names: axes.Names, shape: tuple[int, ...], least: int) -> bool:
    """Whether a leaf holds matrices (by role) of which both sides are at least so large."""
    return per_layer.is_matrix(names) and min(per_layer.folded_shape(names, shape)[-2:]) >= least


def scale_by_factored_rms(
    by_path: dict[str, axes.Names], least: int, exponent: float, b2_max: float, epsilon: float
) -> optax.GradientTransformation:
    """Gradients over the root of their second moment (Shazeer & Stern 2018, algorithms 4 and 5).

    The moment decays by 1 - n^-exponent at update n, by `b2_max` at most. State: count; v_row [*stacks, smaller side] and
    v_col [*stacks, larger side] (optax's order) of factored leaves; v, as large as the leaf, of the others.
    """
    decay = lambda count, _: jnp.minimum(1.0 - jnp.array(count + 1, jnp.float32) ** -exponent, b2_max)
    in_sides, whole = (
        optax.scale_by_factored_rms(factored, min_dim_size_to_factor=1, epsilon=epsilon, decay_rate_fn=decay)
        for factored in (True, False)
    )
    factors = lambda path, leaf: is_factored(by_path[path], leaf.shape, least)

    def init(params):
        moments = {"v_row": [], "v_col": [], "v": []}
        for path, leaf in paths.leaves(params):
            if factors(path, leaf):
                matrices = per_layer.folded(by_path[path], leaf)
                state = per_layer.mapped(in_sides.init, tuple(range(matrices.ndim - 2)))(matrices)
                moments["v_row"].append((path, state.v_row))
                moments["v_col"].append((path, state.v_col))
            else:
                moments["v"].append((path, jnp.zeros_like(leaf)))
        return {"count": jnp.zeros((), jnp.int32)} | {name: paths.from_leaves(found) for name, found in moments.items()}

    def update(updates, state, params=None):
        count = state["count"]
        before = {name: dict(paths.leaves(state[name])) for name in ("v_row", "v_col", "v")}
        scaled, after = {}, {name: [] for name in before}
        for path, gradient in paths.leaves(updates):
            none = jnp.zeros(1, gradient.dtype)  # stands where optax wants the moment that a leaf does not have
            if factors(path, gradient):
                alone = lambda g, row, col, none=none: in_sides.update(g, optax.FactoredState(count, row, col, none), g)
                matrices = per_layer.folded(by_path[path], gradient)
                each = per_layer.mapped(alone, tuple(range(matrices.ndim - 2)))
                matrices, moment = each(matrices, before["v_row"][path], before["v_col"][path])
                scaled[path] = per_layer.unfolded(by_path[path], matrices, gradient.shape)
                after["v_row"].append((path, moment.v_row))
                after["v_col"].append((path, moment.v_col))
            else:
                moment = optax.FactoredState(count, none, none, before["v"][path])
                scaled[path], moment = whole.update(gradient, moment, gradient)
                after["v"].append((path, moment.v))
        state = {"count": optax.safe_increment(count)}
        state |= {name: paths.from_leaves(found) for name, found in after.items()}
        return paths.map_leaves(lambda path, _: scaled[path], updates), state

    return optax.GradientTransformation(init, update)
