"""SigLIP: every pair of the batch is a yes-or-no question of its own (Zhai et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax

from pretrainx.core.pairs import Pairs
from pretrainx.core.records import Term
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy, pair_scores
from pretrainx.objectives.image_text import ImageText, ImageTextConfig, figures, logits_of


@dataclass(frozen=True)
class SiglipConfig(ImageTextConfig):
    """The section `config.objective` of this paradigm.

    Attributes:
      offset: added to the logits at the start, so that almost all pairs are rightly taken for strangers.
      begin: captions begin with a token of their own; SigLIP's do not.
    """

    max_scale: float = field(default=1e4, metadata={"min": 1})
    offset: float = -10.0
    begin: bool = False

    start_scale = 10.0

    @property
    def start_offset(self) -> float:
        return self.offset

    @property
    def begins(self) -> bool:
        return self.begin

    def build(self, model, about: Pairs, length: int, captions: int, precision: Precision) -> Siglip:
        """`model` is the section `config.model`; rows have up to `captions` captions of `length` tokens."""
        network, augmentation = self.network(model, DualEncoderConfig, about, length, precision)
        return Siglip(network, about.images, about.vocabulary, length, captions, augmentation, self)


@dataclass(frozen=True)
class Siglip(ImageText):
    """Of each picture -log sigmoid(logit) of its own caption and -log sigmoid(-logit) of all others', summed; the mean over
    pictures. Scale and offset are trained and never decayed."""

    terms = (Term("contrastive"),)

    def couple(self, params, extras, representations, observation, step):
        image, text = representations["image"], representations["text"]
        weights, logits = observation.weights["contrastive"], pair_scores.own(image, text, *logits_of(params))
        found = self.strangers(params, observation, image, text, pair_scores.SIGMOID)
        loss = jax.nn.softplus(-logits) + found.sum
        hits = {"image_to_text": jax.lax.stop_gradient(logits) >= found.best}
        scored = cross_entropy.outcome("contrastive", loss[:, None], weights[:, None])
        return scored.replace(metrics=figures(params, weights, hits))
