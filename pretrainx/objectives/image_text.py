"""What objectives of pictures and captions share: observing a pair, the two towers, their vectors, the trained scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.pairs import Pairs
from pretrainx.core.records import Mean, Observation, Outcome, PairRows
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import sizes_pairs
from pretrainx.models.layers import Precision
from pretrainx.models.siamese import run, variables
from pretrainx.models.unit import unit
from pretrainx.objectives import crops, pair_scores, pixels
from pretrainx.objectives.augmentation import Augmentation, AugmentConfig
from pretrainx.objectives.contrastive import statistics
from pretrainx.objectives.objective import Objective, check_outputs

DUPLICATES = ("left_out", "negatives")


@dataclass(frozen=True)
class ImageTextConfig:
    """What the sections `config.objective` of pictures and captions have in common.

    Attributes:
      form: how all pairs of a batch are scored: "rows" (each device scores blocks of its rows against all) or "ring" (blocks of
        partners travel around the devices). All forms give the same loss and gradient.
      block: rows of a block of the form "rows".
      duplicates: rows of a batch whose captions are equal are no negatives of each other ("left_out"), or are, as published
        ("negatives"): then a picture is driven away from a caption that is true of it.
      max_scale: what cosines are multiplied by is kept at or below this, by clipping it after each update.
      augment: what is done to a picture before.
    """

    form: str = field(default="rows", metadata={"choices": pair_scores.FORMS})
    block: int = field(default=256, metadata={"min": 1})
    duplicates: str = field(default="left_out", metadata={"choices": DUPLICATES})
    max_scale: float = field(default=100.0, metadata={"min": 1})
    augment: AugmentConfig = AugmentConfig("clip")

    # Of a subclass: where the scale and the offset of logits start, which model it takes, and whether captions begin with a
    # token of their own.
    start_scale = 1 / 0.07
    start_offset = None
    begins = True

    def network(self, model: Any, kind: type, about: Pairs, length: int, precision: Precision):
        """(the model of the section `config.model`, the augmentation); ConfigError for one of another kind."""
        if not isinstance(model, kind):
            names = {"DualEncoderConfig": "dual_encoder", "CocaConfig": "coca"}
            raise ConfigError(
                "the objective learns from pictures and captions with another model",
                where="config.model.name",
                why=f"the model is a {type(model).__name__.removesuffix('Config')}",
                do=f"--config.model.name={names[kind.__name__]}",
            )
        augmentation, scale = self.augment.build(about.images), math.log(self.start_scale)
        shape = about.images, about.vocabulary, length, precision, augmentation.size
        return model.build(*shape, scale, self.start_offset), augmentation


@dataclass(frozen=True)
class ImageText(Objective):
    """Pictures and captions that must find each other among all of the batch.

    Observations have inputs {"image": float[S, S, C], augmented and normalised; "tokens": int32[T], one of the picture's
    captions, drawn}, and weights {"contrastive": 1 per row}. Extras: "batch_stats", the running statistics of BatchNorm, where
    the image tower has any; in training BatchNorm sees the valid rows of the MICROBATCH. Without BatchNorm loss and gradient
    are equal to rounding for any number of microbatches.
    """

    model: Any
    images: Images
    vocabulary: Vocabulary
    length: int
    captions: int
    augmentation: Augmentation
    config: ImageTextConfig

    @property
    def reads(self):
        begin = self.config.begins
        return PairRows(self.images.size, self.images.channels, self.length, self.captions, begin)

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    @property
    def size(self) -> int:
        """Side of the pictures that the network sees."""
        return self.augmentation.size

    def _variables(self, key):
        picture = jnp.zeros((1, self.size, self.size, self.images.channels))
        return variables(self.model, key, picture, jnp.zeros((1, self.length), jnp.int32))

    def init(self, key, batch):
        return self._variables(key)[0]

    def start(self, key, params, batch):
        return params, statistics("batch_stats", self._variables(key)[1])

    def observe(self, key, example, step):
        of_picture, of_caption = jax.random.split(key)
        image = self.augmentation(of_picture, pixels.unit(example["image"]))
        which = jax.random.randint(of_caption, (), 0, jnp.maximum(example["captions"], 1))
        inputs = {"image": pixels.normalised(image, self.images), "tokens": example["tokens"][which]}
        return Observation(inputs, self.targets(inputs), {"contrastive": jnp.float32(1)} | self.weights(inputs))

    def targets(self, inputs: dict[str, jax.Array]) -> Any:
        """What else is to be recovered of one observation."""
        return {}

    def weights(self, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The weights of further terms."""
        return {}

    def forward(self, params, extras, observation, keys, train: bool):
        """(what the model makes of a microbatch, the extras that changed)"""
        inputs, stats = observation.inputs, extras.get("batch_stats", {})
        found, moved = run(
            self.model,
            params,
            stats,
            inputs["image"],
            inputs["tokens"],
            keys=of_towers(keys) if train else None,
            valid=observation.valid,
            train=train,
        )
        return found, statistics("batch_stats", moved) if train else {}

    def encode(self, params, extras, observation, keys, step, *, train):
        found, changed = self.forward(params, extras, observation, keys, train)
        return Outcome(representations=vectors_of(found), extras=changed)

    def strangers(self, params, observation, vectors, others, kind) -> pair_scores.Found:
        """The scores of each row with all others of the batch."""
        marks = pair_scores.marks_of(observation.inputs["tokens"])
        if self.config.duplicates == "negatives":
            marks = jnp.arange(marks.size, dtype=jnp.uint32).reshape(marks.shape)
        scale, offset = logits_of(params)
        valid, form, block = observation.valid, self.config.form, self.config.block
        return pair_scores.strangers(vectors, others, scale, offset, marks, valid, kind, form, block)

    def advance(self, params, extras, collected, key, step):
        space = params["space"]
        scale = jnp.clip(space["log_scale"], 0.0, math.log(self.config.max_scale))
        return params | {"space": space | {"log_scale": scale.astype(space["log_scale"].dtype)}}, extras

    def whole(self, images: jax.Array) -> jax.Array:
        """Pictures uint8[B, S, S, C], or floats in [0, 1], as the network reads them where nothing is changed at random."""
        return pixels.normalised(crops.whole(pixels.unit(images), self.size), self.images)

    def flops_per_row(self):
        return sizes_pairs.flops_per_pair(self.model, self.images, self.size, self.length)

    def parameter_counts(self):
        return sizes_pairs.pair_counts(self.model, self.vocabulary.predicted, self.size, self.images.channels)

    @property
    def output_names(self):
        return ("features", "image", "text", "scale")

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """image and text [B, E], of length one; features, the image's or, of text alone, the text's; scale [], of logits.

        inputs: {"image": uint8[B, S, S, C], or floats in [0, 1], seen whole at the size of training; "tokens": int32[B, T]},
        one of them is enough. BatchNorm uses its running statistics; `train` switches dropout on.
        """
        check_outputs(names, self.output_names)
        first = jax.tree.leaves(inputs)[0]
        keys = jax.random.split(key, len(first)) if train and key is not None else None
        of_images, of_text = of_towers(keys) or (None, None)
        stats, found = extras.get("batch_stats", {}), {"scale": logits_of(params)[0]}
        if "image" in inputs and {"image", "features"} & {*names}:
            pictures = self.whole(inputs["image"])
            given = {"params": params} | ({"batch_stats": stats} if stats else {})
            found["image"] = unit(self.model.apply(given, pictures, of_images, method="encode_image"))
        if "tokens" in inputs and ("text" in names or "image" not in inputs):
            found["text"] = unit(self.model.apply({"params": params}, inputs["tokens"], of_text, method="encode_text"))
        found["features"] = found.get("image", found.get("text"))
        if missing := [name for name in names if found.get(name) is None]:
            raise ValueError(f"the output {missing[0]!r} needs {'tokens' if missing[0] == 'text' else 'an image'}")
        return {name: found[name] for name in names}


def of_towers(keys: jax.Array | None) -> tuple[jax.Array, jax.Array] | None:
    """key[B] of each tower: their dropouts have the same numbers."""
    if keys is None:
        return None
    fold = jax.vmap(jax.random.fold_in, (0, None))
    return fold(keys, 0), fold(keys, 1)


def vectors_of(found: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """{"image", "text"} of length one."""
    return {side: unit(found[side]) for side in ("image", "text")}


def logits_of(params) -> tuple[jax.Array, jax.Array | float]:
    """(scale, offset) of the logits."""
    space = params["space"]
    return jnp.exp(space["log_scale"]), space.get("offset", 0.0)


def figures(params, weights, hits: dict[str, jax.Array]) -> dict[str, Mean]:
    """Shares of rows that found their partner, and the scale of logits, as metrics."""
    weights = jax.lax.stop_gradient(weights)
    total = weights.sum(dtype=float)
    found = {name: Mean((weights * each).sum(dtype=float), total) for name, each in hits.items()}
    return found | {"scale": Mean(jax.lax.stop_gradient(logits_of(params)[0]) * total, total)}
