"""The contract between objectives and the train step, with quiet defaults for what most objectives never use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from pretrainx.core import random
from pretrainx.core.errors import nearest
from pretrainx.core.records import Observation, Outcome, Term
from pretrainx.models.sizes import ParameterCounts

Batch = dict[str, Any]
Params = dict[str, Any]
Extras = dict[str, Any]


class UnknownOutput(ValueError):
    """An objective has no output of that name."""


def check_outputs(names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """UnknownOutput for the first name that is not known."""
    for name in names:
        if name not in known:
            raise UnknownOutput(f"no output {name!r}: {nearest(name, known)}")


@dataclass(frozen=True)
class Objective:
    """Hide, then recover: `observe` makes (inputs, targets, weights) of one example, `encode` runs the model and scores.

    A frozen, hashable dataclass of numbers, strings, tuples and unbound Linen modules: it is static under jit, so two
    equal ones share one compiled step. An objective implements `terms`, `batch_spec`, `init`, `observe`, `encode` and
    `outputs`; the rest has defaults. Weights may depend on example, key and step, never on the model: the step needs
    their sums over the whole batch before the first microbatch.
    """

    # Names of inputs that are pictures in [0, 1]; other pictures among the inputs are normalised.
    unit_pictures = ()
    # Top names of the parameters that a task adds to a pretrained model: wrappers that freeze the model train them.
    heads = ()
    # Beginnings of paths in the extras of what never changes after `start`: stored once per run, as frozen parameters are.
    constants = ()

    @property
    def terms(self) -> tuple[Term, ...]:
        raise TypeError(f"{type(self).__name__} must name its terms")

    @property
    def reads(self) -> Any:
        """What rows of a corpus this reads, for objectives of text: TextRows; of several tasks ((name, share, reads), ...)."""
        raise TypeError(f"{type(self).__name__} does not read text")

    def batch_spec(self, rows: int) -> Batch:
        """{field: jax.ShapeDtypeStruct with leading axis `rows`}, always with `valid: bool[rows]`."""
        raise TypeError(f"{type(self).__name__} must describe its batch")

    def init(self, key: jax.Array, batch: Batch) -> Params:
        """Parameters only, each boxed with its logical axis names."""
        raise TypeError(f"{type(self).__name__} must make its parameters")

    def start(self, key: jax.Array, params: Params, batch: Batch) -> tuple[Params, Extras]:
        """(params, extras), boxed; runs once per run, AFTER restored parameters (`init_from`) were put in place.

        Teachers, queues, anchors are made here: made in `init` they would be copies of noise.
        """
        return params, {}

    def trains(self, path: str) -> bool:
        """Whether the parameter at this path is trained; the others are frozen."""
        return True

    def observe(self, key: jax.Array, example: Batch, step: jax.Array) -> Observation:
        """ONE example (no batch axis) -> what is seen, what is to be recovered, with which weight."""
        raise TypeError(f"{type(self).__name__} must observe")

    def encode(
        self, params: Params, extras: Extras, observation: Observation, keys: Any, step: jax.Array, *, train: bool
    ) -> Outcome:
        """Scores a microbatch. `keys`: one per row, for dropout and other draws of the model."""
        raise TypeError(f"{type(self).__name__} must encode")

    def couple(
        self, params: Params, extras: Extras, representations: Any, observation: Observation, step: jax.Array
    ) -> Outcome:
        """Scores the representations of the whole batch together; called only where `encode` returned some."""
        return Outcome()

    def advance(
        self, params: Params, extras: Extras, collected: Any, key: jax.Array, step: jax.Array
    ) -> tuple[Params, Extras]:
        """(params, extras) after the optimizer's update of step `step`: teachers, queues, clamps."""
        return params, extras

    def outputs(
        self,
        params: Params,
        extras: Extras,
        inputs: Batch,
        names: tuple[str, ...],
        key: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Named outputs (logits, hidden, features ...) on inputs that may be partial; an unknown name is an error."""
        raise TypeError(f"{type(self).__name__} must give its outputs")

    @property
    def output_names(self) -> tuple[str, ...]:
        """What `outputs` knows, where an objective says so before it is asked."""
        return ()

    def cache(self, params: Params, extras: Extras, rows: int, length: int, source: Batch | None = None) -> Any:
        """A cache for decoding `length` tokens of `rows` rows; only models that predict the next token have one.

        source: of objectives with sources, the inputs of an observation that are read first.
        """
        raise TypeError(f"{type(self).__name__} does not decode token by token")

    @property
    def decodes(self) -> bool:
        """Whether it writes token by token: whether there are `cache` and `decode`."""
        return type(self).cache is not Objective.cache

    def decode(self, params: Params, extras: Extras, tokens: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        """(logits [B, T, V], cache) of tokens int32[B, T] that follow those in the cache."""
        raise TypeError(f"{type(self).__name__} does not decode token by token")

    def flops_per_row(self) -> float | None:
        """FLOPs of a row's forward and backward pass, counted from the sizes, for MFU; None where not counted."""
        return None

    def flops_by_convention(self) -> dict[str, float]:
        """FLOPs of a row as others count them, by the names of models/sizes_conventions.py that mean something here."""
        return {}

    def parameter_counts(self) -> ParameterCounts | None:
        """Parameters by what they do, counted from the sizes; None where not counted."""
        return None

    # A mixture replaces the two below; nothing else does.

    def row_keys(self, key: jax.Array, batch: Batch) -> Any:
        """key[rows], a function of the row's number in the global batch alone."""
        return random.per_row(key, batch["valid"].shape[0])

    def observe_rows(self, keys: Any, batch: Batch, step: jax.Array) -> Observation:
        """`observe` over the rows of a batch; every weight is multiplied by `valid`."""
        fields = {name: value for name, value in batch.items() if name != "valid"}
        observation = jax.vmap(self.observe, in_axes=(0, 0, None))(keys, fields, step)
        valid = batch["valid"]
        mask = lambda weight: weight * valid.reshape(-1, *[1] * (weight.ndim - 1)).astype(weight.dtype)
        weights = {name: mask(weight) for name, weight in observation.weights.items()}
        return observation.replace(weights=weights, valid=valid)
