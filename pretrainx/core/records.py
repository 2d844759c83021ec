"""The records that pass between objectives and the train step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from pretrainx.core.errors import ConfigError

# Fields of text rows beside "tokens": whether there is one for each token, and the dtype.
TEXT_FIELDS = {
    "segments": (True, jnp.int32),  # which document of the row a token belongs to: 1, 2, ...; 0 is empty
    "words": (True, jnp.bool_),  # where a token begins a word
    "sentences": (True, jnp.bool_),  # where a token ends a sentence
    "other": (True, jnp.int32),  # the tokens of another row, drawn by the data
    "length": (False, jnp.int32),  # how many tokens of the row are real; padding follows
    "task": (False, jnp.int32),  # which part of a mixture the row is from: 0, 1, ...
}


@dataclass(frozen=True)
class TextRows:
    """The rows that an objective reads from a corpus: what data and objective agree on.

    Attributes:
      width: tokens of a row.
      overlap: how many tokens a row shares with the one before it: 1 where the last token is only a target.
      fields: what is given beside the tokens, of TEXT_FIELDS.
    """

    width: int
    overlap: int = 0
    fields: tuple[str, ...] = ()

    def spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{field: shape and dtype} of a batch: "tokens", the fields, and "valid"."""
        found = {"tokens": jax.ShapeDtypeStruct((rows, self.width), jnp.int32)}
        for name in self.fields:
            per_token, dtype = TEXT_FIELDS[name]
            found[name] = jax.ShapeDtypeStruct((rows, self.width) if per_token else (rows,), dtype)
        return found | {"valid": jax.ShapeDtypeStruct((rows,), jnp.bool_)}


@dataclass(frozen=True)
class ImageRows:
    """The rows that an objective reads from a set of pictures.

    Attributes:
      size, channels: of the pictures as they are stored, uint8[S, S, C].
      fields: what is given beside the picture: "label" or nothing.
    """

    size: int
    channels: int
    fields: tuple[str, ...] = ()

    def spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{field: shape and dtype} of a batch: "image", the fields, and "valid"."""
        found = {"image": jax.ShapeDtypeStruct((rows, self.size, self.size, self.channels), jnp.uint8)}
        found |= {name: jax.ShapeDtypeStruct((rows,), jnp.int32) for name in self.fields}
        return found | {"valid": jax.ShapeDtypeStruct((rows,), jnp.bool_)}


@dataclass(frozen=True)
class PairRows:
    """The rows that an objective reads from a set of pictures with captions.

    A caption is [bos] ids [eos] pad ...; one that is too long is cut, so that both ends stay. The first of a picture is the
    full one. Rows of captions that a picture does not have hold an empty caption.

    Attributes:
      size, channels: of the pictures as they are stored, uint8[S, S, C].
      width: W, tokens of a caption.
      captions: K, the most captions of a picture that a row brings, the first ones.
      begin: whether captions begin with "bos".
      fields: what is given beside these: "label" or nothing.
    """

    size: int
    channels: int
    width: int
    captions: int = 1
    begin: bool = True
    fields: tuple[str, ...] = ()

    def spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{field: shape and dtype} of a batch: "image", "tokens" of all captions, "captions" (how many of the K are real, at
        least 1), the fields, and "valid"."""
        found = {
            "image": jax.ShapeDtypeStruct((rows, self.size, self.size, self.channels), jnp.uint8),
            "tokens": jax.ShapeDtypeStruct((rows, self.captions, self.width), jnp.int32),
            "captions": jax.ShapeDtypeStruct((rows,), jnp.int32),
        }
        found |= {name: jax.ShapeDtypeStruct((rows,), jnp.int32) for name in self.fields}
        return found | {"valid": jax.ShapeDtypeStruct((rows,), jnp.bool_)}


def rows_of_task(task: str, share: float, rows: int) -> int:
    """How many of a batch's rows a task of a mixture has; ConfigError where they are not a whole number above 0.

    Rounded, since shares such as 0.29 are no binary fractions.
    """
    count = round(rows * share)
    if count < 1 or abs(rows * share - count) > 1e-6 * rows:
        raise ConfigError(
            "a task's share of the batch is not a whole number of rows",
            where="config.train.batch_size",
            why=f"{share:g} of {rows} rows for the task {task!r} are {rows * share:g}",
            do="choose a batch size (or config.evals.batch_size) that every share divides, or other shares",
        )
    return count


def tokens_of(reads: Any) -> float:
    """Tokens that a row of this brings beyond those of the row before; of a mixture's tasks the mean."""
    if isinstance(reads, TextRows):
        return reads.width - reads.overlap
    return sum(share * tokens_of(each) for _, share, each in reads)


@dataclass(frozen=True)
class Term:
    """One summand of the loss: its name and its coefficient, a number or a schedule (a frozen, callable record)."""

    name: str
    coefficient: float | Callable[[jax.Array], jax.Array] = 1.0

    def at(self, step):
        return self.coefficient(step) if callable(self.coefficient) else self.coefficient


@struct.dataclass
class Observation:
    """What `observe` makes of examples: what the model sees, what it must recover, and with which weight.

    Attributes:
      inputs, targets: trees of arrays.
      weights: {term: float array}; per example of any shape, so in a batch [rows, ...].
      valid: bool[rows], False for the padded rows of a last batch; filled in by `observe_rows`.
    """

    inputs: Any
    targets: Any
    weights: dict[str, jax.Array]
    valid: Any = None


@struct.dataclass
class Sum:
    """A collected array that is added up over rows (and so over microbatches), not stacked."""

    array: jax.Array


@struct.dataclass
class Mean:
    """A metric as a weighted sum and its weight: the mean of a batch is total / weight, whatever the microbatches."""

    total: jax.Array
    weight: jax.Array


@struct.dataclass
class Outcome:
    """What an objective says about a microbatch.

    Attributes:
      totals: {term: scalar}, the weighted SUM over rows, never a mean.
      per_row: {term: float[rows]}, the same sum per row, without gradient.
      representations: {name: [rows, ...]}, handed to `couple` for the whole batch.
      extras: only the leaves of the extras that `encode` changed.
      collected: {name: [rows, ...] or Sum}, handed to `advance` in row order.
      metrics: {name: Mean}.
    """

    totals: dict[str, Any] = field(default_factory=dict)
    per_row: dict[str, Any] = field(default_factory=dict)
    representations: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    collected: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
