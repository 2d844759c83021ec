"""SimCLR: two views of a picture must find each other among all views of the batch (Chen et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

from pretrainx.core.images import Images
from pretrainx.core.records import Outcome, Term
from pretrainx.models.layers import Precision
from pretrainx.models.siamese import Siamese
from pretrainx.models.unit import unit
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.collapse import embedding_metrics
from pretrainx.objectives.contrastive import Views, check_model, head, nt_xent


@dataclass(frozen=True)
class SimclrConfig:
    """The section `config.objective` of this paradigm.

    Attributes:
      temperature: 0.1 for ImageNet at batch 4096, 0.5 for small batches and small pictures.
      hidden, out: widths of the projector: dense, norm, ReLU for each of `hidden`, then dense to `out`. v1 has one hidden
        layer, v2 (2048, 2048).
      head_norm: "batch" puts BatchNorm into the projector, after the last dense without centre; "none" leaves it out.
      negatives: False leaves only the attraction of the two views, -cos / temperature, to which a constant is the answer: to
        study collapse.
      views: how both views are made.
    """

    temperature: float = field(default=0.1, metadata={"above": 0})
    hidden: tuple[int, ...] = field(default=(2048,), metadata={"min": 1})
    out: int = field(default=128, metadata={"min": 1})
    head_norm: str = field(default="batch", metadata={"choices": ("batch", "none")})
    negatives: bool = True
    views: AugmentConfig = AugmentConfig("simclr")

    def build(self, model, images: Images, precision: Precision) -> Simclr:
        """`model` is the section `config.model`."""
        check_model(model)
        view = self.views.build(images, "views")
        projector = head((*self.hidden, self.out), self.head_norm, "scale", precision)
        network = Siamese(model.build(images, precision, view.size), projector, None)
        return Simclr(network, images, (view, view), self.temperature, self.negatives)


@dataclass(frozen=True)
class Simclr(Views):
    """NT-Xent over the 2N views of the global batch. Both views go through the network in ONE forward pass.

    So BatchNorm sees 2N views (of the microbatch); the loss couples all rows, in whatever number of microbatches they come.
    """

    temperature: float = 0.1
    negatives: bool = True

    terms = (Term("nt_xent"),)
    scored = (2,)
    passes = (2,)

    def encode(self, params, extras, observation, keys, step, *, train):
        found, changed = self.encode_views(params, extras, observation, keys, train, together=True)
        z = unit(found["projection"])
        return Outcome(representations={"z1": z[:, 0], "z2": z[:, 1]}, extras=changed)

    def couple(self, params, extras, representations, observation, step):
        z1, z2 = representations["z1"], representations["z2"]
        weights, valid = observation.weights["nt_xent"], observation.valid
        if self.negatives:
            scored = nt_xent(z1, z2, weights, valid, self.temperature)
        else:
            scored = cross_entropy.outcome("nt_xent", -(z1 * z2).sum(1)[:, None] / self.temperature, weights)
        return scored.replace(metrics=scored.metrics | embedding_metrics(z1, z2, valid))
