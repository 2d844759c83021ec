"""What labelled text is, agreed between data, models and objectives as Vocabulary, Images and Pairs are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.vocabulary import Vocabulary

# What the label of a text is: the name of a class, a number, a name for each word, a part of the second text, another text.
TARGETS = ("class", "number", "tags", "span", "text")


@dataclass(frozen=True)
class Labelled:
    """What labelled text says of itself.

    Attributes:
      vocabulary: the ids of its tokens.
      target: one of TARGETS.
      classes: the names of the labels 0, 1, ... of classes and tags; () of the others.
      pairs: whether each example has a second text.
      mean, std: of the training labels that are numbers.
    """

    vocabulary: Vocabulary
    target: str = "class"
    classes: tuple[str, ...] = ()
    pairs: bool = False
    mean: float = 0.0
    std: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values without the vocabulary, for data.json and for checkpoints."""
        shared = {"target": self.target, "classes": list(self.classes), "pairs": self.pairs}
        return shared | {"mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, values: dict[str, Any]) -> Labelled:
        return cls(vocabulary, **{**values, "classes": tuple(values["classes"])})


@dataclass(frozen=True)
class LabelledRows:
    """The rows that an objective reads of labelled text.

    A row is `begin` text `end` pad ..., of pairs `begin` text `between` second `end` pad ... What does not fit is cut so that
    the marks stay: of pairs the longer of the two, of spans the second.

    Attributes:
      width: W, tokens of a row, the marks among them.
      begin, between, end: names of the special tokens around the texts.
      target: one of TARGETS.
      pairs: whether a second text follows the first.
      types: whether a row says which token is of the second text.
      target_width: tokens of a target that is a text, its "eos" among them; 0 of the others.
    """

    width: int
    begin: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    target: str = "class"
    pairs: bool = False
    types: bool = False
    target_width: int = 0

    @property
    def marks(self) -> int:
        """How many tokens of a row are marks."""
        return len(self.begin) + len(self.end) + len(self.between) * self.pairs

    @property
    def fields(self) -> tuple[str, ...]:
        """What is given beside the tokens."""
        return tuple(name for name in self.spec(1) if name not in ("tokens", "valid"))

    def spec(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """{field: shape and dtype} of a batch, with "valid":

        "tokens" int32[B, W]; "types" int32[B, W], 1 from the second text on; and by target "label" int32[B] (-1: none) or
        float32[B]; "tags" int32[B, W], the class of a word at its first token and -1 elsewhere; "span" int32[B, 2], the first
        and the last token of the answer (-1 where it was cut off), with "context" bool[B, W], the tokens of the second text;
        "target" int32[B, W'], "length" and "target_length" int32[B], how many tokens are real.
        """
        form = jax.ShapeDtypeStruct
        per_token = lambda dtype: form((rows, self.width), dtype)
        found = {"tokens": per_token(jnp.int32)} | ({"types": per_token(jnp.int32)} if self.types else {})
        found |= {
            "class": lambda: {"label": form((rows,), jnp.int32)},
            "number": lambda: {"label": form((rows,), jnp.float32)},
            "tags": lambda: {"tags": per_token(jnp.int32)},
            "span": lambda: {"span": form((rows, 2), jnp.int32), "context": per_token(jnp.bool_)},
            "text": lambda: {
                "target": form((rows, self.target_width), jnp.int32),
                "length": form((rows,), jnp.int32),
                "target_length": form((rows,), jnp.int32),
            },
        }[self.target]()
        return found | {"valid": form((rows,), jnp.bool_)}
