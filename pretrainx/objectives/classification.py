"""Classification of pictures with their labels: the yardstick that representations without labels are held against."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, Observation, Term
from pretrainx.models import sizes_vision
from pretrainx.models.heads import Classifier
from pretrainx.models.layers import Precision, wide
from pretrainx.models.siamese import hidden, run, variables
from pretrainx.objectives import crops, cross_entropy, pixels
from pretrainx.objectives.augmentation import Augmentation, AugmentConfig
from pretrainx.objectives.contrastive import check_model, statistics
from pretrainx.objectives.objective import Objective, check_outputs


@dataclass(frozen=True)
class ClassificationConfig:
    """The section `config.objective` of this paradigm.

    Attributes:
      augment: how the training pictures are changed.
      label_smoothing: this share of the target is spread over all classes in training (Szegedy et al. 2016); the loss of
        evaluations is without it.
    """

    augment: AugmentConfig = AugmentConfig("probe")
    label_smoothing: float = field(default=0.0, metadata={"min": 0, "max": 0.99})

    def build(self, model, images: Images, precision: Precision) -> Classification:
        """`model` is the section `config.model`."""
        check_model(model)
        if len(images.classes) < 2:
            raise ConfigError(
                "there are no classes to tell apart",
                where="config.objective.name",
                why=f"the data name {len(images.classes)} classes",
                do="choose data with labels, or an objective that needs none, such as simclr or mae",
            )
        augmentation = self.augment.build(images)
        backbone, readout = model.build(images, precision, augmentation.size), getattr(model, "readout", 1.0)
        network = Classifier(backbone, len(images.classes), precision, readout)
        return Classification(network, images, augmentation, self)


@dataclass(frozen=True)
class Classification(Objective):
    """Mean negative log-likelihood of the pictures' labels; as metric "accuracy" the share whose class is the likeliest.

    Observations have inputs {"image": float32[S, S, C], augmented and normalised}, targets int32[], and weights {"nll":
    float32[]}, 0 where the label is none of the classes. Extras: "batch_stats", the running statistics of BatchNorm, where the
    network has any; in training BatchNorm sees the valid rows of the microbatch.
    """

    model: Classifier
    images: Images
    augmentation: Augmentation
    config: ClassificationConfig = ClassificationConfig()

    terms = (Term("nll"),)
    heads = ("classes",)

    @property
    def reads(self):
        return ImageRows(self.images.size, self.images.channels, ("label",))

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    @property
    def size(self) -> int:
        """Side of the pictures that the network sees."""
        return self.augmentation.size

    def _variables(self, key):
        return variables(self.model, key, jnp.zeros((1, self.size, self.size, self.images.channels)))

    def init(self, key, batch):
        return self._variables(key)[0]

    def start(self, key, params, batch):
        return params, statistics("batch_stats", self._variables(key)[1])

    def observe(self, key, example, step):
        image = self.augmentation(key, pixels.unit(example["image"]))
        label = example["label"]
        known = (label >= 0) & (label < len(self.images.classes))
        inputs = {"image": pixels.normalised(image, self.images)}
        return Observation(inputs, jnp.where(known, label, 0), {"nll": known.astype(jnp.float32)})

    def encode(self, params, extras, observation, keys, step, *, train):
        stats, keys = extras.get("batch_stats", {}), keys if train else None
        images, valid = observation.inputs["image"], observation.valid
        found, moved = run(self.model, params, stats, images, keys=keys, valid=valid, train=train)
        logits, labels, weights = wide(found["logits"]), observation.targets, observation.weights["nll"]
        nll = cross_entropy.token_nll(logits, labels)
        if train and self.config.label_smoothing:
            share = self.config.label_smoothing
            chosen = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
            nll = nll + share * (chosen - logits.mean(1))
        scored = cross_entropy.outcome("nll", nll[:, None], weights[:, None])
        accuracy = cross_entropy.share(jax.lax.stop_gradient(logits).argmax(1) == labels, weights)
        return scored.replace(extras=statistics("batch_stats", moved) if train else {}, metrics={"accuracy": accuracy})

    def flops_per_row(self):
        config = self.model.backbone.config
        head = 6 * self.model.backbone.feature_width * self.model.count
        return sizes_vision.flops_per_image(config, self.images, self.size) + head

    def parameter_counts(self):
        head = (self.model.backbone.feature_width + 1) * self.model.count
        return sizes_vision.image_counts(self.model.backbone.config, self.size, self.images.channels, head)

    @property
    def output_names(self):
        return ("logits", "features") + ("hidden",) * hasattr(self.model.backbone, "hidden")

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """logits float32[B, classes]; features [B, D]; hidden [B, t + n, D] where there are patches, t = 1 with a class token.

        inputs: {"image": bytes[B, S, S, C], or floats in [0, 1]}, seen whole, at the size of training. BatchNorm uses its
        running statistics, with `train` too, which switches dropout on.
        """
        check_outputs(names, self.output_names)
        images = pixels.normalised(crops.whole(pixels.unit(inputs["image"]), self.size), self.images)
        keys = jax.random.split(key, len(images)) if train and key is not None else None
        found, _ = run(self.model, params, extras.get("batch_stats", {}), images, keys=keys, train=False)
        if "hidden" in names:
            found["hidden"] = hidden(self.model.backbone, params["backbone"], images, keys)
        return {name: found[name] for name in names}
