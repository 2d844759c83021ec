"""What contrastive objectives and their relatives share: views of a picture, InfoNCE, a momentum teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import ImageRows, Observation, Outcome
from pretrainx.models import sizes_heads, sizes_vision
from pretrainx.models.heads import MlpHead
from pretrainx.models.layers import Precision, wide
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.siamese import Siamese, hidden, run, variables
from pretrainx.models.unit import unit
from pretrainx.models.vit import VitConfig
from pretrainx.objectives import crops, cross_entropy, pixels
from pretrainx.objectives.augmentation import Augmentation
from pretrainx.objectives.objective import Objective, check_outputs
from pretrainx.parallel.rules import constrain


def products(a: jax.Array, b: jax.Array) -> jax.Array:
    """a [N, D] times b [M, D] transposed, in float32 or wider on any device: [N, M], rows laid out like those of a batch."""
    return constrain(jnp.matmul(wide(a), wide(b).T, precision="highest"), "batch", None)


def nt_xent(z1: jax.Array, z2: jax.Array, weights: jax.Array, valid: jax.Array, temperature: float) -> Outcome:
    """The term "nt_xent" (Chen et al. 2020, section 2.1): each of 2N views must tell its partner from the 2N - 2 others.

    Args:
      z1, z2: unit vectors [N, D] of the two views of the GLOBAL batch; weights: [N, 2], one per view; valid: bool[N].

    The view itself is excluded, and so are views of rows that are not valid. Gradient flows through anchor, partner and
    negatives. A product of [2N, D] with itself needs [2N, 2N] numbers: 268 MB at N = 4096, split over devices by rows.
    """
    rows, width = z1.shape
    z = constrain(jnp.stack([z1, z2], 1).reshape(2 * rows, width), "batch", None)  # a picture's views are neighbours
    number = jnp.arange(2 * rows)
    seen = jnp.repeat(valid, 2)[None] & (number[:, None] != number)
    # An invalid row sees its own partner all the same: its score must be finite.
    partner = number ^ 1
    logits = products(z, z) / temperature
    logits = jnp.where(seen | (number[None] == partner[:, None]), logits, jnp.finfo(logits.dtype).min / 2)
    nll = cross_entropy.token_nll(logits, partner)
    hits = jax.lax.stop_gradient(logits).argmax(1) == partner
    scored = cross_entropy.outcome("nt_xent", nll.reshape(rows, 2), weights)
    return scored.replace(metrics={"accuracy": cross_entropy.share(hits.reshape(rows, 2), weights)})


def info_nce(query: jax.Array, keys: jax.Array, valid: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """(nll [N], hits bool[N]): each query [N, D] must find its own among the keys [N, D] of the batch's valid rows."""
    number = jnp.arange(len(query))
    logits = products(query, keys) / temperature
    logits = jnp.where(valid[None] | (number[:, None] == number), logits, jnp.finfo(logits.dtype).min / 2)
    return cross_entropy.token_nll(logits, number), jax.lax.stop_gradient(logits).argmax(1) == number


def against_queue(query: jax.Array, key: jax.Array, queue: jax.Array, temperature: float):
    """(nll [N], hits bool[N]): each query [N, D] must tell its own key [N, D] from those of a queue [K, D]."""
    positive = (wide(query) * wide(key)).sum(1, keepdims=True)
    logits = jnp.concatenate([positive, products(query, queue)], 1) / temperature
    nll = cross_entropy.token_nll(logits, jnp.zeros(len(logits), jnp.int32))
    return nll, jax.lax.stop_gradient(logits).argmax(1) == 0


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """cos(a, b) of rows [N, D], in float32 or wider: [N]."""
    return (unit(a) * unit(b)).sum(-1)


def averaged(teacher: paths.Tree, params: paths.Tree, momentum) -> paths.Tree:
    """momentum x teacher + (1 - momentum) x the parameters at the teacher's paths, leaf by leaf, in the teacher's dtype (which
    `teacher_of` made float32 or wider)."""
    move = lambda old, new: (momentum * wide(old) + (1 - momentum) * wide(new)).astype(old.dtype)
    return jax.tree.map(move, teacher, paths.restrict(params, like=teacher))


def teacher_of(params: paths.Tree) -> paths.Tree:
    """A copy of what a teacher has of the trained network: all but the predictor. In float32 or wider: in bfloat16 a running
    average with a momentum above 0.998 would stand still."""
    kept = {name: value for name, value in params.items() if name != "predictor"}
    return jax.tree.map(lambda x: jnp.copy(wide(x)), kept)


def statistics(name: str, stats: paths.Tree) -> dict[str, paths.Tree]:
    """{name: stats}, nothing for networks that have none."""
    return {name: stats} if stats else {}


@dataclass(frozen=True)
class Views(Objective):
    """Several random views of a picture, and a network (backbone, projector, predictor) that sees them.

    Observations have inputs {"views": (float[S, S, C], ...)}, normalised; one term, whose weight is one per row, or `scored` of
    them. Extras: "batch_stats", the running statistics of BatchNorm, where the network has any.

    BatchNorm sees, in training, the valid rows of the MICROBATCH at hand: with k microbatches its statistics, and with them
    loss and gradient, differ from those of the whole batch, and running statistics move to the mean of the microbatches'.
    Without BatchNorm loss and gradient are equal to rounding for any k.
    """

    model: Siamese
    images: Images
    augmentations: tuple[Augmentation, ...]

    scored: ClassVar[tuple[int, ...]] = ()
    passes = (1,)  # how many views of each row go through the network at once, pass by pass

    @property
    def reads(self):
        return ImageRows(self.images.size, self.images.channels)

    def batch_spec(self, rows):
        return self.reads.spec(rows)

    @property
    def size(self) -> int:
        """Side of the pictures that the network sees; local crops may be smaller."""
        return self.augmentations[0].size

    def _picture(self) -> jax.Array:
        return jnp.zeros((1, self.size, self.size, self.images.channels))

    def init(self, key, batch):
        return variables(self.model, key, self._picture())[0]

    def start(self, key, params, batch):
        return params, statistics("batch_stats", variables(self.model, key, self._picture())[1])

    def observe(self, key, example, step):
        image = pixels.unit(example["image"])
        see = lambda number, augment: pixels.normalised(augment(jax.random.fold_in(key, number), image), self.images)
        views = tuple(see(number, augment) for number, augment in enumerate(self.augmentations))
        return Observation({"views": views}, {}, {self.terms[0].name: jnp.ones(self.scored, jnp.float32)})

    def together(self, model, params, stats, pictures, valid, keys, train):
        """({name: [B, V, ...]}, statistics) of V pictures of one size in ONE forward pass: BatchNorm sees all of V x B.

        keys: key[B] for dropout, or None. The V views of a picture are neighbours, so that they stay on its device.
        """
        rows, count = pictures[0].shape[0], len(pictures)
        flat = jnp.stack(pictures, 1).reshape(rows * count, *pictures[0].shape[1:])
        if keys is not None:
            keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count)))(keys).reshape(
                -1
            )
        found, stats = run(model, params, stats, flat, keys=keys, valid=jnp.repeat(valid, count), train=train)
        return jax.tree.map(lambda x: x.reshape(rows, count, *x.shape[1:]), found), stats

    def separately(self, model, params, stats, pictures, valid, keys, train):
        """([{name: [B, ...]} of each picture], statistics): a forward pass for each, BatchNorm sees one view at a time.

        Running statistics move once for each picture, in order.
        """
        results = []
        for number, picture in enumerate(pictures):
            own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            found, stats = run(model, params, stats, picture, keys=own, valid=valid, train=train)
            results.append(found)
        return results, stats

    def encode_views(self, params, extras, observation, keys, train, together=False):
        """(what `separately` or `together` finds of all views, the extras that changed)"""
        method = self.together if together else self.separately
        views, stats = observation.inputs["views"], extras.get("batch_stats", {})
        found, stats = method(self.model, params, stats, views, observation.valid, keys if train else None, train)
        return found, statistics("batch_stats", stats) if train else {}

    @property
    def output_names(self):
        return ("features", "projection") + ("hidden",) * hasattr(self.model.backbone, "hidden")

    def outputs(self, params, extras, inputs, names, key=None, *, train=False):
        """features [B, D], pooled, before any head; projection [B, E]; hidden [B, 1 + n, D] where there are patches.

        inputs: {"image": uint8[B, S, S, C], or floats in [0, 1]}, seen whole, at the size of the views. BatchNorm uses its
        running statistics, with `train` too, which switches dropout on.
        """
        check_outputs(names, self.output_names)
        images = pixels.normalised(crops.whole(pixels.unit(inputs["image"]), self.size), self.images)
        keys = jax.random.split(key, len(images)) if train and key is not None else None
        stats, found = extras.get("batch_stats", {}), {}
        if {"features", "projection"} & {*names}:
            found = run(self.model, params, stats, images, keys=keys, train=False)[0]
        if "hidden" in names:
            found = found | {"hidden": hidden(self.model.backbone, params["backbone"], images, keys)}
        return {name: found[name] for name in names}

    def flops_per_view(self, size: int = 0) -> float:
        """FLOPs of one view's forward and backward pass through backbone and projector."""
        backbone = self.model.backbone
        head = sizes_heads.head_weights(self.model.projector, backbone.feature_width)
        return sizes_vision.flops_per_image(backbone.config, self.images, size or self.size) + 6 * head

    @property
    def student_sees(self) -> tuple[Augmentation, ...]:
        """The views that go through the trained network."""
        return self.augmentations

    def flops_per_row(self):
        """Of all views; products of the batch's vectors with each other are not counted."""
        predictor = sizes_heads.head_weights(self.model.predictor, self.model.projector.widths[-1])
        return sum(self.flops_per_view(augment.size) + 6 * predictor for augment in self.student_sees)

    def parameter_counts(self):
        backbone, projector, predictor = self.model.backbone, self.model.projector, self.model.predictor
        heads = sizes_heads.head_parameters(projector, backbone.feature_width)
        heads += sizes_heads.head_parameters(predictor, projector.widths[-1])
        return sizes_vision.image_counts(backbone.config, self.size, self.images.channels, heads)


@dataclass(frozen=True)
class Taught(Views):
    """Views with a teacher: the network without its predictor, its parameters an average over steps of the trained ones.

    Extras: "teacher", "teacher_stats" (statistics of BatchNorm from the teacher's own forward passes; only parameters are
    averaged). The teacher has no gradient, no dropout, and BatchNorm in training mode while training.
    """

    momentum: Callable | float

    @property
    def teacher(self) -> Siamese:
        return self.model.clone(predictor=None)

    def start(self, key, params, batch):
        params, extras = super().start(key, params, batch)
        stats = variables(self.teacher, key, self._picture())[1]
        return params, extras | {"teacher": teacher_of(params)} | statistics("teacher_stats", stats)

    def teach(self, extras, pictures, valid, train, together=False):
        """(what the teacher finds of these pictures, the extras that changed), without gradient."""
        method = self.together if together else self.separately
        stats = extras.get("teacher_stats", {})
        found, stats = method(self.teacher, extras["teacher"], stats, pictures, valid, None, train)
        return jax.lax.stop_gradient((found, statistics("teacher_stats", stats) if train else {}))

    def momentum_at(self, step):
        return self.momentum(step) if callable(self.momentum) else self.momentum

    @property
    def teacher_sees(self) -> tuple[Augmentation, ...]:
        """The views that go through the teacher."""
        return self.augmentations

    def flops_per_row(self):
        taught = sum(self.flops_per_view(augment.size) for augment in self.teacher_sees)
        return super().flops_per_row() + taught / 3  # a forward pass is a third of forward and backward


# Building an objective from the sections of a config.


def check_model(model) -> None:
    """ConfigError for a model that does not read pictures."""
    if not isinstance(model, (VitConfig, ResNetConfig)):
        raise ConfigError(
            "views of pictures need a model that reads pictures",
            where="config.model.name",
            why=f"the model is a {type(model).__name__.removesuffix('Config')}",
            do="--config.model.name=resnet or vit",
        )


def same_size(first: Augmentation, second: Augmentation) -> None:
    """ConfigError for two views that one network cannot see."""
    if first.size != second.size:
        raise ConfigError(
            "two views of a picture have different sizes",
            where="config.objective.second.size",
            why=f"{first.size} and {second.size} pixels",
            do=f"--config.objective.second.size={first.size}",
        )


def head(widths: tuple[int, ...], norm: str, last: str, precision: Precision, last_bias: bool = False) -> MlpHead:
    """A projector or predictor; without BatchNorm (`norm` "none") its last one is left out too, and denses have biases."""
    last_norm = last if norm == "batch" else "none"
    return MlpHead(widths, norm, last_norm, norm == "none", precision, last_bias=last_bias)
