"""BYOL: one view predicts what a slowly moving teacher makes of the other; no negatives (Grill et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

from pretrainx.core.images import Images
from pretrainx.core.records import Term
from pretrainx.core.schedule import Cosine
from pretrainx.models.layers import Precision
from pretrainx.models.siamese import Siamese
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.collapse import embedding_metrics
from pretrainx.objectives.contrastive import (
    Taught,
    averaged,
    check_model,
    cosine,
    head,
    same_size,
)
from pretrainx.objectives.over_steps import OverSteps


@dataclass(frozen=True)
class ByolConfig(OverSteps):
    """The section `config.objective` of this paradigm.

    Attributes:
      momentum: of the teacher at the start; half a cosine takes it to 1 over `momentum_steps` (0: the run's length).
      hidden, out: widths of projector and predictor.
      head_norm: "batch", or "none" for heads without BatchNorm.
      first, second: how the two views are made; they differ in blur and solarisation.
    """

    momentum: float = field(default=0.996, metadata={"min": 0, "max": 1})
    momentum_steps: int = field(default=0, metadata={"min": 0})
    hidden: tuple[int, ...] = field(default=(4096,), metadata={"min": 1})
    out: int = field(default=256, metadata={"min": 1})
    head_norm: str = field(default="batch", metadata={"choices": ("batch", "none")})
    first: AugmentConfig = AugmentConfig("byol_first")
    second: AugmentConfig = AugmentConfig("byol_second")

    def build(self, model, images: Images, precision: Precision) -> Byol:
        """`model` is the section `config.model`."""
        check_model(model)
        momentum = Cosine(self.momentum, 1.0, self.length("momentum_steps"))
        views = self.first.build(images, "first"), self.second.build(images, "second")
        same_size(*views)
        made = lambda: head((*self.hidden, self.out), self.head_norm, "none", precision)
        network = Siamese(model.build(images, precision, views[0].size), made(), made())
        return Byol(network, images, views, momentum)


@dataclass(frozen=True)
class Byol(Taught):
    """(2 - 2 cos(p1, z2')) + (2 - 2 cos(p2, z1')) per row, z' the teacher's projections.

    A forward pass for each view, in both networks. The teacher moves after the update of step t, towards the new parameters,
    with the momentum of step t (algorithm 1). Rows do not interact but through BatchNorm; the monitors of collapse are those of
    a microbatch.
    """

    terms = (Term("cosine"),)

    def encode(self, params, extras, observation, keys, step, *, train):
        (first, second), changed = self.encode_views(params, extras, observation, keys, train)
        (one, two), moved = self.teach(extras, observation.inputs["views"], observation.valid, train)
        near = cosine(first["prediction"], two["projection"]) + cosine(second["prediction"], one["projection"])
        scored = cross_entropy.outcome("cosine", 4 - 2 * near, observation.weights["cosine"])
        metrics = embedding_metrics(first["projection"], second["projection"], observation.valid)
        return scored.replace(extras=changed | moved, metrics=metrics)

    def advance(self, params, extras, collected, key, step):
        return params, extras | {"teacher": averaged(extras["teacher"], params, self.momentum_at(step))}
