"""SimSiam: one view predicts the other's projection, which has no gradient; no negatives, no teacher (Chen & He 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax

from pretrainx.core.images import Images
from pretrainx.core.records import Term
from pretrainx.models.layers import Precision
from pretrainx.models.siamese import Siamese
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.collapse import embedding_metrics
from pretrainx.objectives.contrastive import Views, check_model, cosine, head


@dataclass(frozen=True)
class SimsiamConfig:
    """The section `config.objective` of this paradigm.

    Attributes:
      hidden, out: widths of the projector; its last norm has neither scale nor centre.
      bottleneck: the predictor's hidden width; its last dense layer has a bias.
      head_norm: "batch", or "none" for heads without BatchNorm.
      stop_gradient: False lets the gradient into the side that is predicted: the network collapses. To study just that.
      views: how both views are made.
    """

    hidden: tuple[int, ...] = field(default=(2048, 2048), metadata={"min": 1})
    out: int = field(default=2048, metadata={"min": 1})
    bottleneck: int = field(default=512, metadata={"min": 1})
    head_norm: str = field(default="batch", metadata={"choices": ("batch", "none")})
    stop_gradient: bool = True
    views: AugmentConfig = AugmentConfig("simsiam")

    def build(self, model, images: Images, precision: Precision) -> Simsiam:
        """`model` is the section `config.model`."""
        check_model(model)
        view = self.views.build(images, "views")
        projector = head((*self.hidden, self.out), self.head_norm, "plain", precision)
        predictor = head((self.bottleneck, self.out), self.head_norm, "none", precision, last_bias=True)
        network = Siamese(model.build(images, precision, view.size), projector, predictor)
        return Simsiam(network, images, (view, view), self.stop_gradient)


@dataclass(frozen=True)
class Simsiam(Views):
    """-(cos(p1, sg z2) + cos(p2, sg z1)) / 2 per row. A forward pass for each view: BatchNorm sees one view at a time.

    Rows do not interact but through BatchNorm; the monitors of collapse are those of a microbatch.
    """

    stop_gradient: bool = True

    terms = (Term("cosine"),)

    def encode(self, params, extras, observation, keys, step, *, train):
        (first, second), changed = self.encode_views(params, extras, observation, keys, train)
        still = jax.lax.stop_gradient if self.stop_gradient else lambda z: z
        apart = -cosine(first["prediction"], still(second["projection"]))
        apart = apart - cosine(second["prediction"], still(first["projection"]))
        scored = cross_entropy.outcome("cosine", apart / 2, observation.weights["cosine"])
        metrics = embedding_metrics(first["projection"], second["projection"], observation.valid)
        return scored.replace(extras=changed, metrics=metrics)
