"""Autoregressive language modelling: hide the next token, recover it (GPT: Radford et al. 2018, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.records import Observation, Term, TextRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import sizes, sizes_conventions
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.experts import ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy, routing
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.objective import Objective, check_outputs


@dataclass(frozen=True)
class Autoregressive(Objective):
    """Mean negative log-likelihood of each token given those before it.

    Rows hold T + 1 tokens and overlap by one, so T stays a round number and every token is predicted once. Padding is no
    target; the end of a document is. Where rows hold several documents (`segmented`), tokens see their own document only,
    positions restart with each, and what follows a document's end is no target.

    Attributes:
      loss: how tokens are scored.
    """

    model: Decoder
    vocabulary: Vocabulary
    length: int
    segmented: bool = False
    loss: TokenLoss = TokenLoss()

    @property
    def terms(self):
        return (Term("nll"), *routing.terms(self.experts))

    @property
    def experts(self) -> ExpertsConfig:
        return self.model.config.experts

    @property
    def reads(self):
        return TextRows(self.length + 1, 1, ("segments",) if self.segmented else ())

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    def init(self, key, batch):
        return self.model.init(key, batch["tokens"][:1, :-1])["params"]

    def observe(self, key, example, step):
        tokens = example["tokens"]
        inputs, targets = {"tokens": tokens[:-1]}, tokens[1:]
        real = targets != self.vocabulary.special("pad")
        if self.segmented:
            segments = example["segments"]
            inputs |= {"segments": segments[:-1], "positions": restarting(segments[:-1])}
            real &= (segments[1:] == segments[:-1]) & (segments[1:] > 0)
        weights = {"nll": real.astype(jnp.float32), **routing.weights(self.experts)}
        return Observation(inputs, targets, weights)

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        x, routed = self._routed(run, observation.inputs, keys if train else None)
        outcome = cross_entropy.scored(
            lambda hidden: run("logits", hidden),
            run("hidden", x),
            observation.targets,
            observation.weights["nll"],
            "nll",
            self.loss.when(train),
        )
        return routing.added(outcome, routed, observation.weights, train)

    def _routed(self, run, inputs, keys):
        tokens, positions = inputs["tokens"], inputs.get("positions")
        around = keys, positions, inputs.get("segments"), inputs.get("seen")
        real = tokens != self.vocabulary.special("pad") if self.experts.count else None
        return run("routed", run("embed", tokens, keys, positions), *around, real)

    def flops_per_row(self):
        return self.flops_by_convention()["matmul_causal"]

    def flops_by_convention(self):
        per_token = sizes_conventions.decoder_flops(self.model.config, self.vocabulary.size, self.length)
        return {name: self.length * flops for name, flops in per_token.items()}

    def parameter_counts(self):
        return sizes.decoder_counts(self.model.config, self.vocabulary.predicted, self.model.max_length)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits [B, T, V]; hidden [B, T, D]; features [B, D], the mean of hidden.

        inputs: {"tokens": int32[B, T]}, and "segments", "positions" where rows hold several documents.
        """
        check_outputs(names, ("logits", "hidden", "features"))
        keys = jax.random.split(key, inputs["tokens"].shape[0]) if train else None
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        x, _ = self._routed(run, inputs, keys)
        found = {}
        if "logits" in names:
            found["logits"] = run("head", x)[..., : self.vocabulary.size]
        if "hidden" in names or "features" in names:
            found["hidden"] = run("hidden", x)
            found["features"] = found["hidden"].mean(1)
        return {name: found[name] for name in names}

    def cache(self, params, extras, rows, length, source=None):
        return self.model.apply({}, rows, length, method="cache")

    def decode(self, params, extras, tokens, cache):
        logits, cache = self.model.apply({"params": params}, tokens, cache, method="decode")
        return logits[..., : self.vocabulary.size], cache


def restarting(segments: jax.Array) -> jax.Array:
    """int32[T]: the position of each token in its segment, of segments int32[T] whose equal numbers are neighbours."""
    index = jnp.arange(segments.shape[0], dtype=jnp.int32)
    begins = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])
    return index - jax.lax.cummax(jnp.where(begins, index, 0))


@dataclass(frozen=True)
class AutoregressiveConfig:
    """The section `config.objective` of this paradigm.

    Attributes:
      loss: how tokens are scored.
    """

    loss: TokenLoss = TokenLoss()

    def build(
        self, model, vocabulary: Vocabulary, length: int, precision: Precision, segmented: bool = False
    ) -> Autoregressive:
        """`model` is the section `config.model`; `length` the data's T; `segmented`: rows hold several documents."""
        if not isinstance(model, DecoderConfig):
            raise ConfigError(
                "the objective 'autoregressive' needs a model that predicts the next token",
                where="config.model.name",
                why=f"the section is a {type(model).__name__}",
                do="--config.model.name=decoder, or an objective for this model",
            )
        return Autoregressive(
            model.build(vocabulary.size, length, precision, vocabulary.predicted),
            vocabulary,
            length,
            segmented,
            self.loss,
        )
