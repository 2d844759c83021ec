"""MoCo v3: predictions of one view must find the teacher's key of the other among all keys of the batch (Chen et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import jax

from pretrainx.core.images import Images
from pretrainx.core.records import Outcome, Term
from pretrainx.core.schedule import Cosine
from pretrainx.models.layers import Precision
from pretrainx.models.siamese import Siamese
from pretrainx.models.unit import unit
from pretrainx.models.vit import VitConfig
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.collapse import embedding_metrics
from pretrainx.objectives.contrastive import (
    Taught,
    averaged,
    check_model,
    head,
    info_nce,
    same_size,
)
from pretrainx.objectives.over_steps import OverSteps

RESNET_CROP = (0.2, 1.0)


@dataclass(frozen=True)
class MocoV3Config(OverSteps):
    """The section `config.objective` of this paradigm.

    Attributes:
      temperature: 0 is 0.2 for a ViT, 1 for a ResNet.
      momentum: of the teacher at the start; half a cosine takes it to 1 over `momentum_steps` (0: the run's length).
      hidden, out: widths of projector and predictor.
      layers: dense layers of the projector; 0 is three for a ViT, two for a ResNet.
      head_norm: "batch", or "none" for heads without BatchNorm.
      frozen_patches: the patch projection of a ViT stays as it was drawn, which keeps training stable (section 4 there). Fixed
        positions, config.model.positions "sincos", belong to that recipe.
      first, second: how the two views are made; they differ in blur and solarisation. For a ResNet their crops are 0.2 of the
        area or more, unless they say otherwise.
    """

    temperature: float = field(default=0.0, metadata={"min": 0})
    momentum: float = field(default=0.99, metadata={"min": 0, "max": 1})
    momentum_steps: int = field(default=0, metadata={"min": 0})
    hidden: int = field(default=4096, metadata={"min": 1})
    out: int = field(default=256, metadata={"min": 1})
    layers: int = field(default=0, metadata={"min": 0})
    head_norm: str = field(default="batch", metadata={"choices": ("batch", "none")})
    frozen_patches: bool = True
    first: AugmentConfig = AugmentConfig("moco_v3_first")
    second: AugmentConfig = AugmentConfig("moco_v3_second")

    def build(self, model, images: Images, precision: Precision) -> MocoV3:
        """`model` is the section `config.model`."""
        check_model(model)
        transformer = isinstance(model, VitConfig)
        momentum = Cosine(self.momentum, 1.0, self.length("momentum_steps"))
        views = tuple(self._view(name, transformer).build(images, name) for name in ("first", "second"))
        same_size(*views)
        hidden = (self.hidden,) * ((self.layers or (3 if transformer else 2)) - 1)
        projector = head((*hidden, self.out), self.head_norm, "plain", precision)
        last = "plain" if transformer else "none"
        predictor = head((self.hidden, self.out), self.head_norm, last, precision)
        network = Siamese(model.build(images, precision, views[0].size), projector, predictor)
        temperature = self.temperature or (0.2 if transformer else 1.0)
        return MocoV3(network, images, views, momentum, temperature, self.frozen_patches and transformer)

    def _view(self, name: str, transformer: bool) -> AugmentConfig:
        view = getattr(self, name)
        own = not transformer and view.name.startswith("moco_v3") and not view.crop
        return replace(view, crop=RESNET_CROP) if own else view


@dataclass(frozen=True)
class MocoV3(Taught):
    """2 tau [CE(q1 k2 / tau) + CE(q2 k1 / tau)] per row, each over the teacher's keys k of the global batch.

    A forward pass for each view, in both networks. The teacher moves before the forward pass of step t, towards the parameters
    that this step starts from, with the momentum of step t: here right after the update of step t - 1.
    """

    temperature: float = 0.2
    frozen_patches: bool = False

    terms = (Term("info_nce"),)

    def trains(self, path):
        return not (self.frozen_patches and path.startswith("backbone/patches/"))

    def encode(self, params, extras, observation, keys, step, *, train):
        queries, changed = self.encode_views(params, extras, observation, keys, train)
        taught, moved = self.teach(extras, observation.inputs["views"], observation.valid, train)
        found = {f"q{number}": unit(each["prediction"]) for number, each in enumerate(queries, 1)}
        found |= {f"k{number}": unit(each["projection"]) for number, each in enumerate(taught, 1)}
        # For the monitors alone: of the whole batch.
        found |= {f"z{number}": jax.lax.stop_gradient(each["projection"]) for number, each in enumerate(queries, 1)}
        return Outcome(representations=found, extras=changed | moved)

    def couple(self, params, extras, representations, observation, step):
        weights, valid = observation.weights["info_nce"], observation.valid
        q1, q2 = representations["q1"], representations["q2"]
        k1, k2 = jax.lax.stop_gradient((representations["k1"], representations["k2"]))
        one, right = info_nce(q1, k2, valid, self.temperature)
        two, _ = info_nce(q2, k1, valid, self.temperature)
        scored = cross_entropy.outcome("info_nce", 2 * self.temperature * (one + two), weights)
        monitors = embedding_metrics(representations["z1"], representations["z2"], valid)
        return scored.replace(metrics={"accuracy": cross_entropy.share(right, weights)} | monitors)

    def advance(self, params, extras, collected, key, step):
        return params, extras | {"teacher": averaged(extras["teacher"], params, self.momentum_at(step + 1))}
