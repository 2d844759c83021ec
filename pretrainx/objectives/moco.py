"""MoCo: a query must find its key among a queue of earlier keys (version 1: He et al. 2020, version 2: Chen et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import Mean, Term
from pretrainx.models.layers import Precision, wide
from pretrainx.models.resnet import ResNetConfig
from pretrainx.models.siamese import Siamese
from pretrainx.models.unit import unit
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.augmentation import AugmentConfig
from pretrainx.objectives.collapse import embedding_metrics
from pretrainx.objectives.contrastive import Taught, against_queue, averaged, check_model, head

# Folded into the key of a microbatch's first row: no dropout of a model has so high a number.
SHUFFLE = 2**20
BATCH_NORMS = ("global", "grouped", "none")


@dataclass(frozen=True)
class MocoConfig:
    """The section `config.objective` of this paradigm.

    Attributes:
      version: 1 has one dense layer as projector and temperature 0.07; 2 has a hidden layer and 0.2, and is trained with a
        cosine of the rate.
      temperature: 0 is the version's.
      hidden: width of the second version's hidden layer; out: of the embeddings.
      queue: keys K that are kept, a multiple of the keys that a step brings; in short runs at most ten batches of them, since
        the loss rises until it is full.
      momentum: of the teacher.
      symmetric: each view is query once and key once; a step brings 2 B keys.
      bn: which rows BatchNorm of the backbone sees: "global" all (of the microbatch), where shuffling would do nothing;
        "grouped" groups of `config.model.batch_group`, those of the keys drawn at random (Shuffle-BN); "none":
        config.model.norm "group", or a ViT. "" is what config.model says; another choice than the model's is refused.
      views: how both views are made; version 1 was trained with "moco_v1".
    """

    version: int = field(default=2, metadata={"choices": (1, 2)})
    temperature: float = field(default=0.0, metadata={"min": 0})
    hidden: int = field(default=2048, metadata={"min": 1})
    out: int = field(default=128, metadata={"min": 1})
    queue: int = field(default=65536, metadata={"min": 1})
    momentum: float = field(default=0.999, metadata={"min": 0, "max": 1})
    symmetric: bool = False
    bn: str = field(default="", metadata={"choices": ("", *BATCH_NORMS)})
    views: AugmentConfig = AugmentConfig("moco_v2")

    def build(self, model, images: Images, precision: Precision) -> Moco:
        """`model` is the section `config.model`."""
        check_model(model)
        bn = batch_norm_of(model)
        if self.bn not in ("", bn):
            ways = {
                "global": "norm=batch --config.model.batch_group=0",
                "grouped": "batch_group=ROWS",
                "none": "norm=group",
            }
            raise ConfigError(
                f"BatchNorm of the model is not {self.bn!r}",
                where="config.objective.bn",
                why=f"by config.model it is {bn!r}",
                do=f"--config.model.{ways[self.bn]}, for a ResNet, or --config.objective.bn={bn}",
            )
        view = self.views.build(images, "views")
        widths = (self.out,) if self.version == 1 else (self.hidden, self.out)
        network = Siamese(model.build(images, precision, view.size), head(widths, "none", "none", precision), None)
        temperature = self.temperature or {1: 0.07, 2: 0.2}[self.version]
        shuffled = bn == "grouped"
        return Moco(
            network, images, (view, view), self.momentum, temperature, self.queue, self.out, self.symmetric, shuffled
        )


def batch_norm_of(model) -> str:
    """Which of BATCH_NORMS the section `config.model` is."""
    if not isinstance(model, ResNetConfig) or model.norm != "batch":
        return "none"
    return "grouped" if model.batch_group else "global"


@dataclass(frozen=True)
class Moco(Taught):
    """Cross-entropy of [q.k, q queue^T] / tau at the key of the same picture, per query; no gradient to keys and queue.

    Order: the teacher moves before the forward pass of step t, towards the parameters that this step starts from (here right
    after the update of step t - 1: nothing happens between). Every microbatch is scored against the queue as it was before the
    step; then the keys of its rows replace the oldest ones, in row order. Invalid rows leave what they would replace.

    A forward pass for each view, so BatchNorm sees one view at a time. Where it has groups, the rows of the key's view are
    permuted before the teacher and back after it, with the key of the step and of the microbatch's first row: query and key
    of a picture are normalised with other peers. The monitors of collapse are those of a microbatch.

    Extras: "queue" [K, D] of unit vectors, "next" int32[], where the next keys go, beside the teacher's.
    """

    temperature: float = 0.2
    queue: int = 65536
    width: int = 128
    symmetric: bool = False
    shuffled: bool = False

    terms = (Term("info_nce"),)

    @property
    def student_sees(self):
        return self.augmentations[: 1 + self.symmetric]

    @property
    def teacher_sees(self):
        return self.augmentations[: 1 + self.symmetric]

    def flops_per_row(self):
        """The queue has no gradient: its products are made forward, and backward to the query."""
        return super().flops_per_row() + 4 * self.queue * self.width * len(self.student_sees)

    def start(self, key, params, batch):
        per_step = batch["valid"].shape[0] * (1 + self.symmetric)
        if self.queue % per_step:
            raise ConfigError(
                "the queue holds no whole number of steps",
                where="config.objective.queue",
                why=f"{self.queue} keys, of which a step brings {per_step}",
                do=f"--config.objective.queue={max(1, self.queue // per_step) * per_step}",
            )
        params, extras = super().start(key, params, batch)
        dtype = jnp.promote_types(jax.tree.leaves(params)[0].dtype, jnp.float32)
        keys = unit(jax.random.normal(jax.random.fold_in(key, 1), (self.queue, self.width), dtype))
        return params, extras | {"queue": boxed(keys, None, None), "next": boxed(jnp.int32(0))}

    def encode(self, params, extras, observation, keys, step, *, train):
        views, valid, weights = observation.inputs["views"], observation.valid, observation.weights["info_nce"]
        queue = jax.lax.stop_gradient(extras["queue"])
        sides = (0, 1) if self.symmetric else (0,)
        asked = observation.replace(inputs={"views": tuple(views[side] for side in sides)})
        queries, changed = self.encode_views(params, extras, asked, keys, train)
        answering = tuple(views[1 - side] for side in sides)
        taught, moved = self._keys(extras, answering, valid, keys, train)
        embedded, answers = (
            [unit(each["projection"]) for each in queries],
            [unit(each["projection"]) for each in taught],
        )
        found = [
            against_queue(query, key, queue, self.temperature) for query, key in zip(embedded, answers, strict=True)
        ]
        scored = cross_entropy.outcome("info_nce", sum(nll for nll, _ in found) / len(found), weights)
        query, key = embedded[0], answers[0]
        near, far = (query * key).sum(1), wide(query) @ queue.mean(0)
        mean = lambda values: Mean(jnp.where(valid, jax.lax.stop_gradient(values), 0).sum(), valid.sum(dtype=float))
        metrics = {"accuracy": cross_entropy.share(found[0][1], weights), "positive": mean(near), "negative": mean(far)}
        return scored.replace(
            extras=changed | moved,
            collected={"keys": jnp.stack(answers, 1), "valid": valid},
            metrics=metrics | embedding_metrics(query, key, valid),
        )

    def _keys(self, extras, pictures, valid, keys, train):
        """`teach`, of permuted rows where BatchNorm has groups."""
        if not (self.shuffled and train):
            return self.teach(extras, pictures, valid, train)
        order = jax.random.permutation(jax.random.fold_in(keys[0], SHUFFLE), len(valid))
        found, moved = self.teach(extras, tuple(picture[order] for picture in pictures), valid[order], train)
        back = jnp.argsort(order)
        return jax.tree.map(lambda x: x[back], found), moved

    def advance(self, params, extras, collected, key, step):
        new = collected["keys"].reshape(-1, self.width)
        valid = jnp.repeat(collected["valid"], 1 + self.symmetric)[:, None]
        queue, place = extras["queue"], extras["next"]
        # Round the end: after a change of the batch size a step need not end where the queue does.
        oldest = (place + jnp.arange(len(new))) % self.queue
        queue = queue.at[oldest].set(jnp.where(valid, new, queue[oldest]).astype(queue.dtype))
        teacher = averaged(extras["teacher"], params, self.momentum_at(step + 1))
        return params, extras | {"teacher": teacher, "queue": queue, "next": (place + len(new)) % self.queue}
