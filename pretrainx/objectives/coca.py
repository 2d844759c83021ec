"""CoCa: CLIP's contrast of vectors, and captions written from pictures (Yu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.pairs import Pairs
from pretrainx.core.records import Term
from pretrainx.models.coca import CocaConfig as CocaModelConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.clip import contrastive
from pretrainx.objectives.cross_entropy import TokenLoss
from pretrainx.objectives.image_text import ImageText, ImageTextConfig, of_towers, vectors_of


@dataclass(frozen=True)
class CocaConfig(ImageTextConfig):
    """The section `config.objective` of this paradigm.

    Attributes:
      contrastive_weight, caption_weight: coefficients of the two terms.
      loss: how the tokens of captions are scored.
    """

    contrastive_weight: float = field(default=1.0, metadata={"min": 0})
    caption_weight: float = field(default=2.0, metadata={"min": 0})
    loss: TokenLoss = TokenLoss()

    def build(self, model, about: Pairs, length: int, captions: int, precision: Precision) -> Coca:
        """`model` is the section `config.model`; rows have up to `captions` captions of `length` tokens."""
        network, augmentation = self.network(model, CocaModelConfig, about, length, precision)
        return Coca(network, about.images, about.vocabulary, length, captions, augmentation, self)


@dataclass(frozen=True)
class Coca(ImageText):
    """CLIP's term, and the mean of -log p(token | tokens before it, picture) over the caption's tokens, its end included; each
    has its own weight. Targets are int32[T - 1], weights {"caption": [T - 1]}, 0 at padding."""

    @property
    def terms(self):
        return Term("contrastive", self.config.contrastive_weight), Term("caption", self.config.caption_weight)

    def targets(self, inputs):
        return inputs["tokens"][1:]

    def weights(self, inputs):
        return {"caption": (inputs["tokens"][1:] != self.vocabulary.special("pad")).astype(jnp.float32)}

    def forward(self, params, extras, observation, keys, train):
        inputs = observation.inputs
        keys = of_towers(keys) if train else None
        return self.model.apply({"params": params}, inputs["image"], inputs["tokens"], keys), {}

    def encode(self, params, extras, observation, keys, step, *, train):
        found, _ = self.forward(params, extras, observation, keys, train)
        outcome = cross_entropy.scored(
            lambda hidden: self.model.apply({"params": params}, hidden, method="logits"),
            found["hidden"][:, :-1],
            observation.targets,
            observation.weights["caption"],
            "caption",
            self.config.loss.when(train),
        )
        metrics = {f"caption_{name}": mean for name, mean in outcome.metrics.items()}
        return outcome.replace(representations=vectors_of(found), metrics=metrics)

    def couple(self, params, extras, representations, observation, step):
        return contrastive(self, params, representations, observation)

    @property
    def output_names(self):
        return (*super().output_names, "logits")

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """Beside those of all pairs, logits [B, T, V] of captions' next tokens, of a picture and tokens int32[B, T]."""
        found = super().outputs(params, extras, inputs, [name for name in names if name != "logits"], key, train=train)
        if "logits" in names:
            images = self.whole(inputs["image"])
            keys = of_towers(jax.random.split(key, len(images))) if train and key is not None else None
            hidden = self.model.apply({"params": params}, images, inputs["tokens"], keys)["hidden"]
            logits = self.model.apply({"params": params}, hidden, method="logits")
            found["logits"] = logits[..., : self.vocabulary.size]
        return {name: found[name] for name in names}

    def cache(self, params, extras, rows, length, source=None):
        """source: {"image": uint8[B, S, S, C], or floats in [0, 1]}, which is read here, once."""
        if source is None:
            raise ValueError("the model writes captions of pictures: give them as source={'image': ...}")
        images = self.whole(source["image"])
        return self.model.apply({"params": params}, images, length, method="start")

    def decode(self, params, extras, tokens, cache):
        """The first of all tokens is the one that captions begin with."""
        logits, cache = self.model.apply({"params": params}, tokens, cache, method="decode")
        return logits[..., : self.vocabulary.size], cache
