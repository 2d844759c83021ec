"""Distillation of what the model was: it goes on answering as it did, softly (Li & Hoiem 2016; Hinton et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.adapt.preserving import Preserving, Strength, effective, of_numbers, predictions
from pretrainx.adapt.wrapper import innermost
from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Term
from pretrainx.models.layers import wide
from pretrainx.objectives.objective import Objective

WHERE = "config.preserve.name='distill'"
LOWEST = -1e30  # of logits, which mask the padding of a vocabulary: divided by a temperature they stay finite


@dataclass(frozen=True)
class DistillConfig(Strength):
    """The section `config.preserve` that adds strength * KL(teacher || model), the teacher being the model as config.init_from
    gave it, on what the task observes. Of numbers the divergence is the square of their difference.

    Attributes:
      temperature: both logits are divided by it, the divergence is multiplied by its square (Hinton et al. 2015, section 2);
        numbers have none.
    """

    temperature: float = field(default=2.0, metadata={"above": 0})

    def wrap(self, objective: Objective) -> Distill:
        return Distill(objective, self.coefficient, self.temperature)


@dataclass(frozen=True)
class Distill(Preserving):
    """The inner objective and the term "distill", with the weights of the inner objective's first term.

    Extras: "teacher", the trained leaves as they were when the run started; frozen ones serve both. The teacher is the
    innermost objective with the weights that these amount to: a prompt or a prefix changes what the model says before it has
    learned anything, and is no part of it. The model's answers for this term are a second forward pass without dropout, the
    teacher's a third. Raises ConfigError where the objective has no logits at the places that it scores, or keeps extras, on
    which its function would hang too.
    """

    temperature: float = 2.0

    name = "distill"
    kept = ("teacher",)

    @property
    def first(self) -> Term:
        return self.inner.terms[0]

    def start(self, key, params, batch):
        params, extras = self.inner.start(key, params, batch)
        if moving := [path for path, _ in paths.leaves(extras)]:
            raise ConfigError(
                "the teacher would not stay what it was",
                where=WHERE,
                why=f"the objective keeps {moving[0]} beside its parameters",
                do="choose 'l2_sp' or 'ewc', or a model without BatchNorm",
            )

        def observed(params):
            observation = self.inner.observe_rows(self.inner.row_keys(key, batch), batch, 0)
            return predictions(self.inner, params, extras, observation, WHERE)[0]

        jax.eval_shape(observed, axes.unbox(params))  # refuses
        teacher = paths.split(params, self.inner.trains)[0]
        return params, {"inner": extras, "teacher": jax.tree.map(jnp.copy, teacher)}

    def weigh(self, observation):
        return observation.weights[self.first.name]

    def judge(self, params, extras, observation):
        teacher = jax.lax.stop_gradient(effective(self.inner, paths.merge(params, extras["teacher"])))
        answer = lambda objective, params: predictions(objective, params, extras["inner"], observation, WHERE)[0]
        divergence = self.divergence(
            answer(innermost(self.inner), teacher), answer(self.inner, params), of_numbers(observation.targets)
        )
        weights = observation.weights[self.name]
        # `where`, since 0 times a NaN is NaN.
        rows = jnp.where(weights > 0, weights * divergence, 0).sum(axis=tuple(range(1, weights.ndim)))
        return rows.sum(), rows

    def divergence(self, old: jax.Array, new: jax.Array, numbers: bool) -> jax.Array:
        """[...] of logits [..., V], or of numbers [..., 1]"""
        if numbers:
            return jnp.square(wide(old) - wide(new))[..., 0]
        old, new = self.soft(old), self.soft(new)
        return self.temperature**2 * (jnp.exp(old) * (old - new)).sum(-1)

    def soft(self, logits: jax.Array) -> jax.Array:
        """log of the probabilities at the temperature."""
        return jax.nn.log_softmax(jnp.maximum(wide(logits), LOWEST) / self.temperature)
