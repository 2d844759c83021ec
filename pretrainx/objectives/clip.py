"""CLIP: a picture must find its caption among all of the batch, and a caption its picture (Radford et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from pretrainx.core.pairs import Pairs
from pretrainx.core.records import Outcome, Term
from pretrainx.models.dual_encoder import DualEncoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy, pair_scores
from pretrainx.objectives.image_text import ImageText, ImageTextConfig, figures, logits_of


@dataclass(frozen=True)
class ClipConfig(ImageTextConfig):
    """The section `config.objective` of this paradigm."""

    def build(self, model, about: Pairs, length: int, captions: int, precision: Precision) -> Clip:
        """`model` is the section `config.model`; rows have up to `captions` captions of `length` tokens."""
        network, augmentation = self.network(model, DualEncoderConfig, about, length, precision)
        return Clip(network, about.images, about.vocabulary, length, captions, augmentation, self)


@dataclass(frozen=True)
class Clip(ImageText):
    """The mean of two cross-entropies over the pairs of the global batch: of captions for each picture, of pictures for each
    caption. The scale of logits is trained, clipped after each update, and as a scalar never decayed."""

    terms = (Term("contrastive"),)

    def couple(self, params, extras, representations, observation, step):
        return contrastive(self, params, representations, observation)


def contrastive(objective: ImageText, params, representations, observation) -> Outcome:
    """The term "contrastive" of CLIP, with the shares of hits both ways and the scale as metrics."""
    image, text = representations["image"], representations["text"]
    weights, logits = observation.weights["contrastive"], pair_scores.own(image, text, *logits_of(params))
    losses, hits = [], {}
    for name, vectors, others in (("image_to_text", image, text), ("text_to_image", text, image)):
        found = objective.strangers(params, observation, vectors, others, pair_scores.SOFTMAX)
        losses.append(jax.nn.softplus(found.sum - logits))  # ln(e^own + sum of the others') - own
        hits[name] = jax.lax.stop_gradient(logits) >= found.best
    scored = cross_entropy.outcome("contrastive", ((losses[0] + losses[1]) / 2)[:, None], weights[:, None])
    return scored.replace(metrics=figures(params, weights, hits))
