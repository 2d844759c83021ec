"""The vocabulary: what data and objectives agree on about token ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import ConfigError, DataError, close, nearest


@dataclass(frozen=True)
class Vocabulary:
    """Number of token ids, and the ids with a meaning of their own.

    Attributes:
      size: ids are 0 .. size - 1. A model may store more rows (padding); they are never targets.
      specials: (name, id) pairs, such as (("pad", 0), ("eos", 1)).
      added: how many of the last ids are no token of the tokenizer, such as the padding of one that has none: models keep a
        row for them, and never predict them.
      sentinels: ids that stand for hidden spans, in the order of their use (T5: descending from the last id).
    """

    size: int
    specials: tuple[tuple[str, int], ...] = ()
    added: int = 0
    sentinels: tuple[int, ...] = ()

    @property
    def predicted(self) -> int:
        """How many ids a softmax is over: 0 .. predicted - 1."""
        return self.size - self.added

    @property
    def names(self) -> dict[int, str]:
        """{id: what a person is shown for it}: special tokens as <name>, sentinels as <S0>, <S1>, ..."""
        marks = {token: f"<S{index}>" for index, token in enumerate(self.sentinels)}
        return marks | {token: f"<{name}>" for name, token in self.specials}

    def special(self, name: str) -> int:
        """The id of a special token; ConfigError where there is none of that name."""
        self.require(name)
        return dict(self.specials)[name]

    def require(self, *names: str, otherwise: str = "choose another objective") -> None:
        """ConfigError that tells all special tokens among these that the tokenizer lacks; `otherwise`: what else one can do."""
        known = dict(self.specials)
        if missing := tuple(dict.fromkeys(name for name in names if name not in known)):
            raise ConfigError(
                f"the tokenizer has no special token {' and no '.join(map(repr, missing))}",
                where="config.data.specials",
                why=f"it has {', '.join(known) or 'none'}"
                + (f"; {nearest(missing[0], known)}" if close(missing[0], known) else ""),
                do=f"give a tokenizer that is trained here the token: {self.asking(*missing)}, or {otherwise}",
            )

    def asking(self, *names: str) -> str:
        """The override that gives a trained tokenizer these special tokens beside those that it was given."""
        given = tuple(name for name, _ in self.specials if name not in ("pad", "eos"))
        return f'--config.data.specials="{(*given, *names)}"'

    def check(self, tokens: np.ndarray, where: str) -> None:
        """Raises DataError when a token id lies outside the vocabulary (a lookup would clamp it silently)."""
        if tokens.size and not (0 <= int(tokens.min()) and int(tokens.max()) < self.size):
            raise DataError(
                "a token id lies outside the vocabulary",
                where=where,
                why=f"ids from {int(tokens.min())} to {int(tokens.max())}, vocabulary size {self.size}",
                do="prepare the data again with the tokenizer of this run",
            )
