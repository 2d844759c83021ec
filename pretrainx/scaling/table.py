"""One tidy table of what runs reached: a row per run, or per checkpoint of a run. Everything that is fitted reads this."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Table:
    """Columns of R rows, counts in float64: 6 N D passes int64 at modest scale.

    Attributes:
      runs: the run that a row is of; rows of one run are points of one curve, and not independent.
      parameters: float64[R], N. tokens: float64[R], D, training tokens or examples. flops: float64[R], C, of training.
      loss: float64[R], nats per token or whatever the objective's loss is. error: float64[R], its standard error; nan: unknown.
      budget: float64[R], the budget in FLOPs that a run was planned for; nan where there is none.
      unique: float64[R], tokens that differ, U; D where nothing is repeated.
      convention: how FLOPs were counted, such as "matmul_causal" or "6nd". counted: what N counts, such as "total".
      unit: what D counts, such as "token" or "picture".
      source: the file or directory that it was read from.
    """

    runs: tuple[str, ...]
    parameters: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    budget: np.ndarray
    unique: np.ndarray
    convention: str = "6nd"
    counted: str = "total"
    unit: str = "token"
    source: str = ""

    COLUMNS = ("parameters", "tokens", "flops", "loss", "error", "budget", "unique")

    def __len__(self) -> int:
        return len(self.runs)

    def take(self, rows) -> Table:
        """The rows of an index array or a mask, in its order; an index may come twice."""
        index = np.arange(len(self))[rows]
        columns = {name: getattr(self, name)[index] for name in self.COLUMNS}
        runs = tuple(self.runs[row] for row in index)
        return Table(
            runs, **columns, convention=self.convention, counted=self.counted, unit=self.unit, source=self.source
        )

    def origin(self) -> dict[str, str]:
        """What a fit keeps of where its rows are from."""
        facts = {name: getattr(self, name) for name in ("convention", "counted", "unit", "source")}
        return facts | {"digest": self.digest()}

    def digest(self) -> str:
        """A hash of all numbers, by which a fit names its data."""
        columns = b"".join(np.ascontiguousarray(getattr(self, name), np.float64).tobytes() for name in self.COLUMNS)
        return hashlib.sha256(columns + "\n".join(self.runs).encode()).hexdigest()[:16]


def table(parameters, tokens, loss, flops=None, runs=None, error=None, budget=None, unique=None, **facts: str) -> Table:
    """A table from columns; without `flops` C = 6 N D, without `runs` each row is a run of its own."""
    parameters, tokens, loss = (np.asarray(column, np.float64) for column in (parameters, tokens, loss))
    unknown = np.full(loss.shape, np.nan)
    given = lambda column, other: other if column is None else np.asarray(column, np.float64)
    return Table(
        runs=tuple(runs) if runs is not None else tuple(map(str, range(len(loss)))),
        parameters=parameters,
        tokens=tokens,
        flops=given(flops, 6.0 * parameters * tokens),
        loss=loss,
        error=given(error, unknown),
        budget=given(budget, unknown),
        unique=given(unique, tokens),
        **facts,
    )
