"""Prompt tuning: trained rows stand before the embedded tokens of a frozen model (Lester et al. 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from pretrainx.adapt.inserted import intercepted
from pretrainx.adapt.mixture import Mixture
from pretrainx.adapt.prompted import PROMPTED, intercept, read_length
from pretrainx.adapt.wrapper import Frozen, innermost
from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.core.records import TextRows
from pretrainx.objectives.objective import Objective

INITIAL = ("sample", "random")
NAME = "prompt"


@dataclass(frozen=True)
class PromptConfig:
    """The section `config.adapt`, for models of text. p D parameters are trained, and the heads that the task adds.

    The rows stand at the first p positions, tokens p further; an encoder-decoder reads them in its encoder. Losses and outputs
    are of the tokens alone.

    Attributes:
      length: p, rows of the prompt (20 is common, 100 in the paper).
      initial: "sample": rows of the pretrained vocabulary table, drawn among the first `among` ids without the special ones (in
        many vocabularies the most frequent); "random": normal, as such a table starts.
      tasks: how many prompts. With more than one, each part of a mixture of texts (config.data.parts) has its own, and a batch
        holds rows of all.
    """

    length: int = field(default=20, metadata={"min": 1})
    initial: str = field(default="sample", metadata={"choices": INITIAL})
    among: int = field(default=5000, metadata={"min": 1})
    tasks: int = field(default=1, metadata={"min": 1})

    def wrap(self, objective: Objective) -> Prompt:
        return Prompt(objective, self)


@dataclass(frozen=True)
class Prompt(Frozen):
    """The leaf `prompt` [p, D], or of several tasks [tasks, p, D]: batches then have a field "task", int32[rows], and each row
    is given the prompt of its task; inputs of `outputs` and the source of `cache` may name it too, otherwise it is 0.
    """

    config: PromptConfig = PromptConfig()

    def __post_init__(self):
        for task in single(self.inner):
            model = getattr(task, "model", None)
            if not isinstance(model, PROMPTED):
                raise ConfigError(
                    "a prompt stands before the words of a decoder, an encoder or an encoder-decoder",
                    where="config.adapt.name",
                    why=f"the model of {type(task).__name__} is a {type(model).__name__}",
                    do="--config.adapt.name=lora, or adapter",
                )
            self._check_positions(model, read_length(task), "config.data.length")
        refuse_packed(self.inner, "a prompt")
        if self.tasks > 1 and isinstance(innermost(self.inner), Mixture):
            raise ConfigError(
                "a row would have two tasks",
                where="config.adapt",
                why="the objective is a mixture of tasks, and the prompt has several too",
                do="one prompt for all tasks of the mixture",
            )

    @property
    def tasks(self) -> int:
        return self.config.tasks

    @property
    def reads(self):
        reads = self.inner.reads
        if self.tasks == 1 or not isinstance(reads, TextRows):
            return reads
        return dataclasses.replace(reads, fields=(*reads.fields, "task"))

    def _check_positions(self, model, length: int, where: str) -> None:
        longest = model.max_length
        if model.config.positions == "learned" and self.config.length + length > longest:
            raise ConfigError(
                "the model has no positions for the prompt",
                where=where,
                why=f"{self.config.length} rows of it and {length} tokens; the position table has {longest} rows",
                do=f"at most {max(longest - self.config.length, 0)} tokens, a shorter prompt (config.adapt.length), or, for a "
                f"table that is trained with it, --config.model.max_length={self.config.length + length}",
            )

    def scope(self, params, task=None):
        rows = params[NAME] if self.tasks == 1 else params[NAME][0 if task is None else task]
        return intercepted(intercept(rows))

    def adapts(self, path):
        return path == NAME or super().adapts(path)

    def effective(self, params):
        return super().effective({name: tree for name, tree in params.items() if name != NAME})

    def batch_spec(self, rows):
        spec = self.inner.batch_spec(rows)
        return spec | ({"task": jax.ShapeDtypeStruct((rows,), jnp.int32)} if self.tasks > 1 else {})

    def init(self, key, batch):
        params = self.inner.init(key, batch)
        table = params["token"]["table"].value
        dtype = jnp.promote_types(table.dtype, jnp.float32)
        several = (self.tasks,) * (self.tasks > 1)
        zeros = jnp.zeros((*several, self.config.length, table.shape[1]), dtype)
        return params | {NAME: boxed(zeros, *("prompt",) * (len(several) + 1), "embed")}

    def start(self, key, params, batch):
        """Rows are drawn of the table that was restored; those of an earlier run with a prompt stay."""
        box, table = params[NAME], params["token"]["table"].value
        task, draw = next(single(self.inner)), jax.random.fold_in(key, 1)
        shape = box.value.shape
        if self.config.initial == "sample":
            special = {token for _, token in task.vocabulary.specials}
            ids = np.array([i for i in range(min(self.config.among, task.vocabulary.predicted)) if i not in special])
            count = int(np.prod(shape[:-1]))
            rows = table[jax.random.choice(draw, ids, (count,), replace=count > len(ids))].reshape(shape)
        else:
            rows = task.model.config.table_std * jax.random.normal(draw, shape, box.value.dtype)
        kept = jnp.where((box.value == 0).all(), rows.astype(box.value.dtype), box.value)
        return self.inner.start(key, params | {NAME: box.replace_boxed(kept)}, batch)

    def observe(self, key, example, step):
        return self._with_task(example, self.inner.observe(key, self._rest(example), step))

    def observe_rows(self, keys, batch, step):
        return self._with_task(batch, self.inner.observe_rows(keys, self._rest(batch), step))

    def _task(self, inputs):
        return inputs.get("task") if self.tasks > 1 else None

    def _rest(self, inputs):
        return {name: value for name, value in inputs.items() if name != "task"} if self.tasks > 1 else inputs

    def _with_task(self, batch, observation):
        if self.tasks == 1:
            return observation
        return observation.replace(inputs=observation.inputs | {"task": batch["task"]})

    def encode(self, params, extras, observation, keys, step, *, train):
        rest = observation.replace(inputs=self._rest(observation.inputs))
        with self.scope(params, self._task(observation.inputs)):
            return self.inner.encode(params, extras, rest, keys, step, train=train)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        with self.scope(params, self._task(inputs)):
            return self.inner.outputs(params, extras, self._rest(inputs), names, key, train=train)

    def cache(self, params, extras, rows, length, source=None):
        task, source = self._task(source or {}), self._rest(source or {}) or None
        if source is not None:  # the prompt stands before the source, which is read here
            with self.scope(params, task):
                return self.inner.cache(params, extras, rows, length, source)
        self._check_positions(writer(self.inner).model, length, "the text to be written")
        return Unread(self.inner.cache(params, extras, rows, length + self.config.length), task)

    def decode(self, params, extras, tokens, cache):
        if not isinstance(cache, Unread):
            return self.inner.decode(params, extras, tokens, cache)
        with self.scope(params, cache.task):
            return self.inner.decode(params, extras, tokens, cache.empty)


@struct.dataclass
class Unread:
    """A cache in which nothing stands yet: the prompt, of tasks int32[rows] or None, is read with the first tokens."""

    empty: Any
    task: jax.Array | None


def refuse_packed(objective: Objective, what: str) -> None:
    """ConfigError where rows hold several documents: tokens see their own only, and what is inserted belongs to none."""
    if any(getattr(task, "segmented", False) for task in single(objective)):
        raise ConfigError(
            f"{what} cannot stand before several documents at once",
            where="config.data.packing",
            why='it is "documents": tokens see what belongs to their own document only',
            do="--config.data.packing=single, or stream",
        )


def single(objective: Objective) -> Iterator[Objective]:
    """The objectives that wrappers and mixtures are around."""
    objective = innermost(objective)
    if isinstance(objective, Mixture):
        for _, task, _ in objective.tasks:
            yield from single(task)
    else:
        yield objective


def writer(objective: Objective) -> Objective:
    """The one of them that `cache` and `decode` are of."""
    objective = innermost(objective)
    return writer(objective.writer()[1]) if isinstance(objective, Mixture) else objective
