"""What keeps what a pretrained model knows: wrappers with one more term, and extras of their own beside the inner ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.adapt.wrapper import Wrapper, innermost
from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation, Term
from pretrainx.core.schedule import Ramp
from pretrainx.objectives import pixels
from pretrainx.objectives.objective import Objective, UnknownOutput


@dataclass(frozen=True)
class Strength:
    """What the sections `config.preserve` share.

    Attributes:
      strength: the term's coefficient.
      ramp: over so many steps it rises to that from 0; 0: it is that from the first step on.
    """

    strength: float = field(default=1.0, metadata={"min": 0})
    ramp: int = field(default=0, metadata={"min": 0})

    @property
    def coefficient(self) -> float | Ramp:
        return Ramp(0.0, self.strength, self.ramp) if self.ramp else self.strength


@dataclass(frozen=True)
class Preserving(Wrapper):
    """The inner objective and one more term, named `name`. Extras: {"inner": the inner ones, and what `kept` names}.

    A subclass implements `start`, `weigh` and `judge`, and makes in `start` what is in `kept`, which never changes.
    """

    strength: float | Ramp = 1.0

    name = ""
    kept = ()

    @property
    def terms(self):
        return (*self.inner.terms, Term(self.name, self.strength))

    @property
    def constants(self):
        return (*self.kept, *(f"inner/{path}" for path in self.inner.constants))

    def weigh(self, observation: Observation) -> jax.Array:
        """The term's weights, of an observation of the inner objective."""
        raise TypeError(f"{type(self).__name__} must weigh its term")

    def judge(self, params, extras, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """(the term's weighted sum over the rows, the same per row without gradient)."""
        raise TypeError(f"{type(self).__name__} must score its term")

    def observe_rows(self, keys, batch, step):
        observation = self.inner.observe_rows(keys, batch, step)
        return observation.replace(weights=observation.weights | {self.name: self.weigh(observation)})

    def encode(self, params, extras, observation, keys, step, *, train):
        outcome = super().encode(params, extras["inner"], observation, keys, step, train=train)
        total, per_row = self.judge(params, extras, observation)
        return outcome.replace(
            totals=outcome.totals | {self.name: total},
            per_row=outcome.per_row | {self.name: jax.lax.stop_gradient(per_row)},
            extras={"inner": outcome.extras},
        )

    def couple(self, params, extras, representations, observation, step):
        outcome = super().couple(params, extras["inner"], representations, observation, step)
        return outcome.replace(extras={"inner": outcome.extras})

    def advance(self, params, extras, collected, key, step):
        params, inner = super().advance(params, extras["inner"], collected, key, step)
        return params, extras | {"inner": inner}

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        return super().outputs(params, extras["inner"], inputs, names, key, train=train)

    def cache(self, params, extras, rows, length, source=None):
        return super().cache(params, extras["inner"], rows, length, source)

    def decode(self, params, extras, tokens, cache):
        return super().decode(params, extras["inner"], tokens, cache)


def effective(objective: Objective, params: paths.Tree) -> paths.Tree:
    """The parameters of the model that `params` amount to: those of wrappers that change weights merged into the weights."""
    return objective.effective(params) if isinstance(objective, Wrapper) else params


def of_numbers(targets: jax.Array) -> bool:
    """Whether targets are numbers, and no classes."""
    return jnp.issubdtype(targets.dtype, jnp.floating)


def predictions(objective: Objective, params, extras, observation: Observation, where: str) -> tuple[Any, Any, Any]:
    """(logits [..., V], targets int[...], weights [...]) of an observation: a distribution at each place that is predicted.

    Of targets that are numbers, float[...], logits [..., 1] are the mean of a normal distribution; its variance is 1/2, so that
    the squared error is -log p up to a constant, as the loss has it.

    Without dropout; gradients reach `params`. `where` is the configuration that asks. Raises ConfigError where the objective
    has no logits, or none at the places that it scores, or one of a single class.
    """

    def refuse(why: str) -> ConfigError:
        return ConfigError(
            "the objective does not say how likely each answer is",
            where=where,
            why=f"{type(innermost(objective)).__name__}: {why}",
            do="choose an objective with logits at each place that is scored, such as 'autoregressive' or 'classification', "
            "or leave this out",
        )

    inputs, weights = observation.inputs, observation.weights.get(objective.terms[0].name)
    if isinstance(inputs, dict) and "image" in inputs and "image" not in objective.unit_pictures:
        inputs = inputs | {"image": pixels.denormalised(inputs["image"], innermost(objective).images)}
    try:
        logits = objective.outputs(params, extras, inputs, ("logits",))["logits"]
    except (UnknownOutput, KeyError, AttributeError, TypeError) as error:
        raise refuse(f"it gives no logits of what it observes ({error})") from error
    if not hasattr(observation.targets, "shape") or not logits.shape[:-1] == observation.targets.shape == weights.shape:
        shape = list(getattr(observation.targets, "shape", []))
        raise refuse(f"its logits are {list(logits.shape)}, its targets {shape or 'of several kinds'}")
    if of_numbers(observation.targets) != (logits.shape[-1] == 1):
        kind = "numbers" if of_numbers(observation.targets) else "classes"
        raise refuse(f"its targets are {kind}, and each has {logits.shape[-1]} logits")
    return logits, observation.targets, weights
