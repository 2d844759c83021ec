"""Autoregressive language modelling: hide the next token, recover it (GPT: Radford et al. 2018, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.errors import nearest
from pretrainx.core.records import Observation, Term
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import sizes
from pretrainx.models.decoder import Decoder
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.objective import Objective


@dataclass(frozen=True)
class Autoregressive(Objective):
    """Mean negative log-likelihood of each token given those before it.

    Rows hold T + 1 tokens and overlap by one, so T stays a round number and every token is predicted once. Padding is no
    target; the end of a document is.
    """

    model: Decoder
    vocabulary: Vocabulary
    length: int

    terms = (Term("nll"),)

    def batch_spec(self, rows):
        return {
            "tokens": jax.ShapeDtypeStruct((rows, self.length + 1), jnp.int32),
            "valid": jax.ShapeDtypeStruct((rows,), jnp.bool_),
        }

    def init(self, key, batch):
        return self.model.init(key, batch["tokens"][:1, :-1])["params"]

    def observe(self, key, example, step):
        tokens = example["tokens"]
        targets = tokens[1:]
        weights = (targets != self.vocabulary.special("pad")).astype(jnp.float32)
        return Observation({"tokens": tokens[:-1]}, targets, {"nll": weights})

    def encode(self, params, extras, observation, keys, step, *, train):
        logits = self.model.apply({"params": params}, observation.inputs["tokens"], keys if train else None)
        nll = cross_entropy.token_nll(logits, observation.targets)
        return cross_entropy.outcome("nll", nll, observation.weights["nll"])

    def flops_per_row(self):
        return self.length * sizes.decoder_flops_per_token(self.model.config, self.vocabulary.size, self.length)

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits [B, T, V]; hidden [B, T, D]; features [B, D], the mean of hidden. inputs: {"tokens": int32[B, T]}."""
        known = ("logits", "hidden", "features")
        for name in names:
            if name not in known:
                raise ValueError(f"no output {name!r}: {nearest(name, known)}")
        tokens = inputs["tokens"]
        keys = jax.random.split(key, tokens.shape[0]) if train else None
        run = lambda method, *args: self.model.apply({"params": params}, *args, method=method)
        x = run("blocks", run("embed", tokens, keys), keys)
        found = {}
        if "logits" in names:
            found["logits"] = run("head", x)[..., : self.vocabulary.size]
        if "hidden" in names or "features" in names:
            found["hidden"] = run("hidden", x)
            found["features"] = found["hidden"].mean(1)
        return {name: found[name] for name in names}


@dataclass(frozen=True)
class AutoregressiveConfig:
    """The section `config.objective` of this paradigm: nothing to choose."""

    def build(self, model, vocabulary: Vocabulary, length: int, precision: Precision) -> Autoregressive:
        """`model` is the section `config.model`; `length` the data's T."""
        return Autoregressive(model.build(vocabulary.size, length, precision), vocabulary, length)
