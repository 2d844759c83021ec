"""Elastic weight consolidation: what mattered to the old task holds on to its value (Kirkpatrick et al. 2017, equation 3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.adapt.preserving import Preserving, Strength, effective
from pretrainx.core import axes, paths
from pretrainx.core.axes import boxed
from pretrainx.models.layers import wide
from pretrainx.objectives.objective import Objective

IMPORTANCE = "importance"


@dataclass(frozen=True)
class EwcConfig(Strength):
    """The section `config.preserve` that adds strength / 2 * sum_i F_i (theta_i - theta*_i)^2 to the loss.

    theta* are the parameters that config.init_from gave. F is the diagonal Fisher information of the source run's task there,
    which `pretrainx eval --workdir=RUN --evals=fisher` writes.

    Attributes:
      fisher: workdir of the run whose Fisher information it is; "" is config.init_from.
      normalise: "max" divides F by its largest entry, so that a strength means the same for every source; "none" leaves it.
    """

    fisher: str = ""
    normalise: str = field(default="none", metadata={"choices": ("none", "max")})

    def wrap(self, objective: Objective) -> Ewc:
        return Ewc(objective, self.coefficient)


@dataclass(frozen=True)
class Ewc(Preserving):
    """The inner objective and the term "ewc": half the weighted square of how far the weights are from where they started.

    It is of the weights that the model amounts to: around LoRA, of base and update together. Held are the leaves that can move,
    heads of a new task excepted. Weight one per row, so that the term is the same for any number of microbatches.

    Extras: "anchor", what those leaves were when the run started, in float32 where they are base and update together, and
    "importance", F of each, in float32. `init` makes the
    importance as params["importance"], ones, so that what another run measured can be put in its place; `start` takes the
    anchor, after parameters were restored, and moves the importance to the extras.
    """

    name = "ewc"
    kept = ("anchor", IMPORTANCE)

    def importance(self, leaf):
        """Ones in the form of a boxed leaf's importance."""
        return leaf.replace_boxed(jnp.ones(leaf.value.shape, jnp.float32))

    def held(self, params: paths.Tree) -> paths.Tree:
        """The leaves whose values are kept, boxed, of boxed parameters."""
        exact, found = jax.tree.map(wide, axes.unbox(params)), []
        given, boxes = dict(paths.leaves(exact)), dict(paths.leaves(params))
        for path, leaf in paths.leaves(effective(self.inner, exact)):
            # A frozen leaf moves where the wrappers make another one of it.
            made = leaf is not given[path]
            moves = self.inner.trains(path) or made
            if moves and path.split("/")[0] not in self.heads:
                found.append((path, boxes[path].replace_boxed(leaf) if made else boxes[path]))
        return paths.from_leaves(found)

    def init(self, key, batch):
        params = self.inner.init(key, batch)
        held = paths.map_leaves(lambda _, leaf: self.importance(leaf), self.held(params))
        return {**params, IMPORTANCE: held}

    def start(self, key, params, batch):
        importance = params[IMPORTANCE]
        rest = {name: tree for name, tree in params.items() if name != IMPORTANCE}
        params, extras = self.inner.start(key, rest, batch)
        held, known = dict(paths.leaves(self.held(params))), dict(paths.leaves(importance))
        both = [path for path in held if path in known]  # `start` may take leaves away, and make new ones
        anchor = paths.from_leaves((path, jax.tree.map(jnp.copy, held[path])) for path in both)
        return params, {"inner": extras, "anchor": anchor, IMPORTANCE: paths.restrict(importance, like=anchor)}

    def weigh(self, observation):
        return jax.tree.leaves(observation.valid)[0].astype(jnp.float32)  # of a mixture, the rows of one task

    def judge(self, params, extras, observation):
        anchor = extras["anchor"]
        # Of a base in bfloat16, small updates would be lost in its last digits.
        now = paths.restrict(effective(self.inner, jax.tree.map(wide, params)), like=anchor)
        square = lambda value, old, weight: (weight * jnp.square(wide(value) - wide(old))).sum() / 2
        penalty = sum(jax.tree.leaves(jax.tree.map(square, now, anchor, extras[IMPORTANCE])))
        rows = observation.weights[self.name]
        return penalty * rows.sum(), penalty * rows


def scalar_importance():
    """One number for a whole leaf."""
    return boxed(jnp.ones((), jnp.float32))
