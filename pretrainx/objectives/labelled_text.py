"""What downstream tasks on text share: a pretrained model reads a text or a pair of texts, and a new head scores what it makes
of them (Devlin et al. 2019, section 3.2; Radford et al. 2018, section 3.2)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.labelled import Labelled, LabelledRows
from pretrainx.core.records import Mean, Outcome
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import sizes, sizes_conventions
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.encoder import Encoder, EncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.models.task_heads import KINDS, NAME, Scores, TaskHead
from pretrainx.objectives.masked_lm import mark_names
from pretrainx.objectives.objective import Objective, check_outputs
from pretrainx.objectives.routing import refuse_experts

POOLS = ("auto", "cls", "mean", "last")


@dataclass(frozen=True)
class HeadConfig:
    """What the sections `config.objective` of these tasks have in common.

    Attributes:
      head: "linear", or "dense" (dense, tanh, linear).
      dropout: in the head, before each of its layers.
    """

    head: str = field(default="linear", metadata={"choices": KINDS})
    dropout: float = field(default=0.1, metadata={"min": 0, "max": 0.99})

    def parts(
        self,
        name: str,
        target: str,
        model: Any,
        about: Labelled,
        width: int,
        precision: Precision,
        count: int,
        bias: bool = True,
        **model_is,
    ) -> tuple[Encoder | Decoder, TaskHead, LabelledRows]:
        """(model, head, rows) of the task `name` for rows of `width` tokens and heads of `count` scores.

        bias: of the head; model_is: fields of an encoder that the task decides. ConfigError where labels or model do not fit.
        """
        refuse_other_labels(name, target, about)
        if not isinstance(model, (EncoderConfig, DecoderConfig)):
            raise ConfigError(
                f"the objective {name!r} needs an encoder or a decoder",
                where="config.model.name",
                why=f"the section is a {type(model).__name__}",
                do="--config.model.name=encoder, or decoder",
            )
        refuse_experts(name, model)
        if isinstance(model, EncoderConfig):
            # What predicts tokens is not read, and would only decay.
            model = dataclasses.replace(model, head="none", **model_is)
        scores = Scores(count, self.head, self.dropout, model.initial_std, precision, bias, model.wider)
        vocabulary = about.vocabulary
        network = model.build(vocabulary.size, width, precision, vocabulary.predicted)
        return network, TaskHead(scores), rows_for(model, about, width)


def refuse_other_labels(name: str, target: str, about: Labelled) -> None:
    """ConfigError where labels are of another kind than the task learns from, or too few."""
    if about.target != target:
        raise ConfigError(
            f"the objective {name!r} learns from other labels",
            where="config.data.target",
            why=f"the labels are {about.target!r}, it needs {target!r}",
            do=f"--config.data.target={target}, or another objective",
        )
    if target in ("class", "tags") and len(about.classes) < 2:
        raise ConfigError(
            "there are no classes to tell apart",
            where="config.data.label",
            why=f"all examples are of {', '.join(about.classes) or 'no class'}",
            do="name a field with several values",
        )


def rows_for(model: Any, about: Labelled, width: int, target_width: int = 0) -> LabelledRows:
    """The rows that a model reads as it read its text: encoders within marks, others with the end behind, and "bos" before it
    where there is one."""
    known = dict(about.vocabulary.specials)
    types = about.pairs and getattr(model, "types", 0) >= 2
    if isinstance(model, EncoderConfig):
        first, last = mark_names(about.vocabulary)
        # RoBERTa writes two marks between texts; of its tokenizer "cls" is another name of "bos".
        double = first == "bos" or known.get("cls") == known.get("bos", -1)
        begin, between, end = (first,), (last, last) if double else (last,), (last,)
    else:
        begin, between, end = ("bos",) if "bos" in known else (), ("eos",), ("eos",)
    return LabelledRows(width, begin, between, end, about.target, about.pairs, types, target_width)


@dataclass(frozen=True)
class LabelledText(Objective):
    """A task on texts. Its parameters are those of the model at the root, where pretraining had them, and "task", the head.

    A task gives `terms`, `observe`, `scored` and `judged`; inputs of observations are {"tokens": int32[W]}, and "types" where
    the model tells two texts apart.

    Attributes:
      head: the scores of a vector.
      form: the rows of its data.
      vocabulary: of the tokens.
    """

    model: Encoder | Decoder
    head: TaskHead
    form: LabelledRows
    vocabulary: Vocabulary

    heads = (NAME,)

    @property
    def reads(self):
        return self.form

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.form.width

    def batch_spec(self, rows):
        return self.form.spec(rows)

    def init(self, key, batch):
        key, of_head = jax.random.split(key)
        tokens = jnp.zeros((1, self.reads.width), jnp.int32)
        params = self.model.init(key, tokens, method=_read)["params"]
        vector = jnp.zeros((1, self.model.config.width), self.model.precision.compute)
        return params | self.head.init(of_head, vector)["params"]

    def inputs_of(self, example) -> dict[str, jax.Array]:
        return {name: example[name] for name in ("tokens", "types") if name in example}

    def scored(self, logits: jax.Array, observation: Any, train: bool) -> Outcome:
        """The terms of logits float32[B, ...], without metrics."""
        raise TypeError(f"{type(self).__name__} must score")

    def judged(self, logits: jax.Array, observation: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        """{metric: (weighted sum float[B], weight float[B]) of each row}: the metric is the quotient of the two sums."""
        raise TypeError(f"{type(self).__name__} must judge")

    def read(self, params, inputs, keys=None) -> dict[str, jax.Array]:
        """What `outputs` gives: logits, features and hidden."""
        raise TypeError(f"{type(self).__name__} must read")

    def encode(self, params, extras, observation, keys, step, *, train):
        logits = self.read(params, observation.inputs, keys if train else None)["logits"]
        judged = self.judged(jax.lax.stop_gradient(logits), observation)
        metrics = {
            name: Mean(total.sum(dtype=float), weight.sum(dtype=float)) for name, (total, weight) in judged.items()
        }
        return self.scored(logits, observation, train).replace(metrics=metrics)

    def run(self, params, method, *args):
        return self.model.apply({"params": params}, *args, method=method)

    def hidden(self, params, inputs, keys=None) -> jax.Array:
        """[B, T, D]"""
        return self.run(params, _hidden, inputs["tokens"], keys, inputs.get("types"), self.real(inputs))

    def real(self, inputs) -> jax.Array:
        """bool[B, T], which tokens are no padding."""
        return inputs["tokens"] != self.vocabulary.special("pad")

    def scores(self, params, x, keys=None) -> jax.Array:
        """float32[..., count] of vectors [B, ..., D]."""
        return self.head.apply({"params": {NAME: params[NAME]}}, x, keys)

    def flops_per_row(self):
        config, width = self.model.config, self.reads.width
        if isinstance(self.model, Encoder):
            return sizes.encoder_flops_per_row(config, 0, width, 0)
        return width * sizes_conventions.decoder_flops_per_token(config, 0, width)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits float32[B, classes] (of tasks on tokens [B, T, ...]); features [B, D]; hidden [B, T, D].

        inputs: {"tokens": int32[B, T]}, framed as `reads` says; "types" int32[B, T] where the model tells two texts apart.
        """
        check_outputs(names, ("logits", "features", "hidden"))
        keys = jax.random.split(key, inputs["tokens"].shape[0]) if train else None
        found = self.read(params, inputs, keys)
        return {name: found[name] for name in names}


def mean_of(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """[B, D]: the mean of hidden [B, T, D] over real tokens bool[B, T]."""
    total = jnp.where(real[..., None], hidden, 0).sum(1)
    return (total / jnp.maximum(real.sum(1), 1)[:, None]).astype(hidden.dtype)


def _hidden(model: Encoder | Decoder, tokens, keys, types, real):
    """What the model makes of tokens, normalised; padding is behind them, where nothing that is causal looks."""
    if isinstance(model, Encoder):
        return model.hidden(model.blocks(model.embed(tokens, keys, None, types), keys, None, real.astype(jnp.int32)))
    return model.hidden(model.blocks(model.embed(tokens, keys), keys))


def _read(model: Encoder | Decoder, tokens):
    """All parameters that a task may read: those of the pooler too."""
    found = _hidden(model, tokens, None, None, jnp.ones(tokens.shape, bool))
    return model.pooled(found) if getattr(model.config, "pooler", False) else found
