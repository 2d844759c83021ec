"""The discrete variational autoencoder: a visual tokenizer that mixes codes while it learns, less and less (Ramesh et al. 2021,
section 2.1 and appendix A; the relaxation: Jang et al. 2017, Maddison et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.images import Images
from pretrainx.core.records import Mean, Outcome, Sum, Term
from pretrainx.core.schedule import Cosine, Ramp
from pretrainx.models.layers import Precision
from pretrainx.models.visual_tokenizer import from_interior, to_interior
from pretrainx.objectives import pixels
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.over_steps import OverSteps
from pretrainx.objectives.vq_vae import Tokenizing, code_metrics, row_sums, tokenizer_config, votes_of


@dataclass(frozen=True)
class DvaeConfig(OverSteps):
    """The section `config.objective` of this paradigm; `config.model` is a visual_tokenizer of the kind "logits".

    Attributes:
      temperature, temperature_end: of the mixture, along half a cosine over `temperature_steps` (0: the run's length; 150,000
        there).
      kl_weight, kl_steps: of the divergence from choosing all codes alike: it rises from 0 in a line.
      decay: of the running counts that "perplexity" and "dead" are made of.
      augment: what is done to a picture before.
    """

    temperature: float = field(default=1.0, metadata={"above": 0})
    temperature_end: float = field(default=1 / 16, metadata={"above": 0})
    temperature_steps: int = field(default=0, metadata={"min": 0})
    kl_weight: float = field(default=6.6, metadata={"min": 0})
    kl_steps: int = field(default=5_000, metadata={"min": 0})
    decay: float = field(default=0.99, metadata={"min": 0, "below": 1})
    augment: AugmentConfig = AugmentConfig("mae")

    lasting: ClassVar = (("temperature_steps", 1.0),)

    def build(self, model, images: Images, precision: Precision) -> Dvae:
        """`model` is the section `config.model`."""
        model, augmentation = tokenizer_config(model, "logits"), self.augment.build(images)
        model.grid(augmentation.size)
        self.length("temperature_steps")
        return Dvae(model.build(images, precision), images, augmentation, self)


# Below this share of an average code's uses a code is called dead.
DEAD_BELOW = 0.1


@dataclass(frozen=True)
class Dvae(Tokenizing):
    """-ln p(x | codes) + weight(step) KL(q | uniform), both per number of the picture (S x S x C, as the paper divides).

    In training a cell's code is the mixture softmax((logits + Gumbel noise) / temperature(step)) of all codes, otherwise the
    code with the largest logit. Pixels mapped to [0.1, 0.9] are logit-Laplace: their logits are Laplace around the
    decoder's first C numbers, with the exponentials of the other C as widths. Metrics: "perplexity" and "dead" of
    the running counts of largest logits (the extras "counts") before the step, and "mse" in units of the data's variance.
    """

    config: DvaeConfig = DvaeConfig()

    @property
    def terms(self):
        return Term("reconstruction"), Term("kl", Ramp(0.0, self.config.kl_weight, self.config.kl_steps))

    def start(self, key, params, batch):
        dtype = jnp.promote_types(self.model.precision.params, jnp.float32)  # as running means must be
        return params, {"counts": boxed(jnp.zeros(self.model.count, dtype), "vocab")}

    def tokenizer(self, params, extras):
        return {"network": params}

    def temperature(self, step):
        config = self.config
        return Cosine(config.temperature, config.temperature_end, config.temperature_steps)(step)

    def encode(self, params, extras, observation, keys, step, *, train):
        run = lambda method, x: self.model.apply({"params": params}, x, method=method)
        image, weights = observation.inputs["image"], observation.weights
        logits = run("encode_features", image)
        chances, ids = jax.nn.log_softmax(logits), jax.lax.stop_gradient(logits).argmax(-1)
        if train:
            noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], jnp.float32))(keys)
            shares = jax.nn.softmax((chances + noise) / self.temperature(step).astype(logits.dtype))
        else:
            shares = jax.nn.one_hot(ids, self.model.count, dtype=logits.dtype)
        place, width = jnp.split(run("decode", run("mixed", shares)), 2, axis=-1)
        seen = to_interior(pixels.denormalised(image, self.images)).astype(place.dtype)
        nll = logit_laplace(seen, place, width).mean((1, 2, 3))
        divergence = (jnp.exp(chances) * (chances + math.log(self.model.count))).sum((1, 2, 3))
        totals, per_row = row_sums("reconstruction", nll, weights["reconstruction"])
        divergence = divergence / math.prod(image.shape[1:])
        more, more_per_row = row_sums("kl", divergence, weights["kl"])
        guess = pixels.normalised(from_interior(jax.nn.sigmoid(jax.lax.stop_gradient(place))), self.images)
        wrong = jnp.square(guess - image).mean((1, 2, 3)) * weights["reconstruction"]
        votes = votes_of(ids, self.model.count, observation.valid, logits.dtype)
        mse = Mean(wrong.sum(dtype=float), weights["reconstruction"].sum(dtype=float))
        return Outcome(
            totals=totals | more,
            per_row=per_row | more_per_row,
            collected={"counts": Sum(votes.sum(0))},
            metrics=code_metrics(extras["counts"], DEAD_BELOW, weights["reconstruction"]) | {"mse": mse},
        )

    def advance(self, params, extras, collected, key, step):
        new = collected["counts"].array
        counts = self.config.decay * extras["counts"] + (1 - self.config.decay) * new
        return params, extras | {"counts": counts}


def logit_laplace(x: jax.Array, place: jax.Array, log_width: jax.Array) -> jax.Array:
    """-ln of the density of x in (0, 1): 1 / (2 b x (1 - x)) exp(-|logit(x) - place| / b), b = exp(log_width)."""
    distance = jnp.abs(jnp.log(x) - jnp.log1p(-x) - place) * jnp.exp(-log_width)
    return distance + log_width + math.log(2) + jnp.log(x) + jnp.log1p(-x)
