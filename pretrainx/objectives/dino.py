"""DINO: a student that sees crops says what a teacher says of the whole picture, without labels (Caron et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from pretrainx.core.axes import boxed
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.core.records import Mean, Sum, Term
from pretrainx.core.schedule import Cosine, Ramp
from pretrainx.models.dino_head import DinoHead
from pretrainx.models.layers import Precision, wide
from pretrainx.models.siamese import Siamese
from pretrainx.models.vit import VitConfig
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.augmentation import Augmentation, AugmentConfig
from pretrainx.objectives.collapse import embedding_metrics
from pretrainx.objectives.contrastive import Taught, averaged, check_model, same_size, statistics
from pretrainx.objectives.over_steps import OverSteps

GLOBAL = 2  # crops that the teacher sees too


@dataclass(frozen=True)
class DinoConfig(OverSteps):
    """The section `config.objective` of this paradigm.

    Attributes:
      prototypes: K outputs of the head; hidden: widths of its MLP, bottleneck: of the MLP's result.
      head_norm: "batch" puts BatchNorm into the head.
      student_temperature, teacher_temperature: of the two softmaxes; the teacher's starts at `first_temperature` and rises
        linearly over `temperature_steps` (0: 30 % of the run; 30 epochs there). With both equal it is constant.
      momentum: of the teacher at the start; half a cosine takes it to 1 over `momentum_steps` (0: the run's length).
      centre_momentum: of the running mean of the teacher's outputs that is taken from them.
      frozen_steps: for so many steps the prototypes have no gradient (one epoch there).
      local_crops: small crops, seen by the student alone.
      first, second, local: how crops are made. A smaller `local.size` makes them cheap; by default it is the size of
        `dino_local`, rounded to whole patches of a ViT.
    """

    prototypes: int = field(default=65536, metadata={"min": 2})
    hidden: tuple[int, ...] = field(default=(2048, 2048), metadata={"min": 1})
    bottleneck: int = field(default=256, metadata={"min": 1})
    head_norm: str = field(default="none", metadata={"choices": ("batch", "none")})
    student_temperature: float = field(default=0.1, metadata={"above": 0})
    teacher_temperature: float = field(default=0.07, metadata={"above": 0})
    first_temperature: float = field(default=0.04, metadata={"above": 0})
    temperature_steps: int = field(default=0, metadata={"min": 0})
    momentum: float = field(default=0.996, metadata={"min": 0, "max": 1})
    momentum_steps: int = field(default=0, metadata={"min": 0})
    centre_momentum: float = field(default=0.9, metadata={"min": 0, "max": 1})
    frozen_steps: int = field(default=0, metadata={"min": 0})
    local_crops: int = field(default=8, metadata={"min": 0})
    first: AugmentConfig = AugmentConfig("dino_global_first")
    second: AugmentConfig = AugmentConfig("dino_global_second")
    local: AugmentConfig = AugmentConfig("dino_local")

    lasting: ClassVar = (("momentum_steps", 1.0), ("temperature_steps", 0.3))

    def build(self, model, images: Images, precision: Precision) -> Dino:
        """`model` is the section `config.model`."""
        check_model(model)
        first, second = self.first.build(images, "first"), self.second.build(images, "second")
        same_size(first, second)
        local = self._local(model, images, first.size) if self.local_crops else first
        projector = DinoHead((*self.hidden, self.bottleneck), self.prototypes, self.head_norm, precision)
        network, small = (Siamese(model.build(images, precision, crop.size), projector) for crop in (first, local))
        momentum = Cosine(self.momentum, 1.0, self.length("momentum_steps"))
        temperature = Ramp(self.first_temperature, self.teacher_temperature, self.length("temperature_steps"))
        crops = (first, second) + (local,) * self.local_crops
        return Dino(
            network,
            images,
            crops,
            momentum,
            small,
            self.prototypes,
            self.student_temperature,
            temperature,
            self.centre_momentum,
            self.frozen_steps,
        )

    def _local(self, model, images: Images, whole: int) -> Augmentation:
        """How local crops are made, beside global ones of the side `whole`. ConfigError where a ViT cannot read them."""
        local = self.local.build(images, "local")
        if not isinstance(model, VitConfig):
            return local
        nearest = max(1, round(local.size / model.patch)) * model.patch
        if not self.local.size:
            local = replace(local, size=nearest)
        for wrong, what, why, do in (
            (
                local.size != nearest,
                "the patches do not fill the local crops",
                f"crops of {local.size} x {local.size} pixels, patches of {model.patch}",
                f"--config.objective.local.size={nearest}, or 0 for the nearest to 3/7 of the pictures",
            ),
            (
                model.positions == "relative" and local.size != whole,
                "relative positions are those of one size of picture",
                f"local crops have {local.size} pixels, global ones {whole}",
                f"--config.objective.local.size={whole}, or --config.model.positions=learned",
            ),
        ):
            if wrong:
                raise ConfigError(what, where="config.objective.local.size", why=why, do=do)
        return local


@dataclass(frozen=True)
class Dino(Taught):
    """Cross-entropy of softmax((t - c) / tau_t) with log softmax(s / tau_s), mean over pairs of a global crop of the teacher
    and another crop of the student, per row.

    All crops of one size go through a network in one forward pass. The centre c moves after the loss, towards the mean of the
    teacher's outputs over valid rows and global crops; then the teacher, after the update of step t, with that step's momentum.
    While the prototypes are frozen they have no gradient; decay only scales them, which changes nothing.

    Local crops of another size are seen by the same ViT, its learned positions interpolated (cubic); positions "sincos" are
    computed for the crop's own grid. The monitors of collapse are of the backbone's features, and those of a microbatch;
    "teacher_entropy" is in units of ln K: 0 or 1 both are collapse.

    Extras: "centre" [K], beside the teacher's.
    """

    small: Siamese
    prototypes: int = 65536
    student_temperature: float = 0.1
    teacher_temperature: Callable | float = 0.07
    centre_momentum: float = 0.9
    frozen_steps: int = 0

    terms = (Term("cross_entropy"),)

    def start(self, key, params, batch):
        params, extras = super().start(key, params, batch)
        dtype = jnp.promote_types(jax.tree.leaves(params)[0].dtype, jnp.float32)
        return params, extras | {"centre": boxed(jnp.zeros(self.prototypes, dtype), "classes")}

    @property
    def teacher_sees(self):
        return self.augmentations[:GLOBAL]

    @property
    def passes(self):
        local = len(self.augmentations) - GLOBAL
        return (GLOBAL, local) if local else (GLOBAL,)

    def encode(self, params, extras, observation, keys, step, *, train):
        valid, crops = observation.valid, observation.inputs["views"]
        found, changed = self._student(self._held(params, step), extras, crops, valid, keys if train else None, train)
        taught, moved = self.teach(extras, crops[:GLOBAL], valid, train, together=True)
        said = wide(taught["projection"])  # [B, 2, K]
        rate = self.teacher_temperature(step) if callable(self.teacher_temperature) else self.teacher_temperature
        nll, entropy = losses(found["projection"], said, extras["centre"], self.student_temperature, rate)
        scored = cross_entropy.outcome("cross_entropy", nll, observation.weights["cross_entropy"])
        real = valid[:, None, None]
        metrics = {
            "teacher_entropy": Mean(jnp.where(valid, jax.lax.stop_gradient(entropy), 0).sum(), valid.sum(dtype=float))
        }
        return scored.replace(
            extras=changed | moved,
            collected={
                "outputs": Sum(jnp.where(real, said, 0).sum((0, 1))),
                "count": Sum(GLOBAL * valid.sum(dtype=float)),
            },
            metrics=metrics | embedding_metrics(found["features"][:, 0], found["features"][:, 1], valid),
        )

    def _student(self, params, extras, crops, valid, keys, train):
        """({"projection": [B, crops, K], "features": [B, 2, D]}, the extras that changed)"""
        stats = extras.get("batch_stats", {})
        found, stats = self.together(self.model, params, stats, crops[:GLOBAL], valid, keys, train)
        if len(crops) > GLOBAL:
            own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, GLOBAL)
            resized = self.resized(params)
            local, stats = self.together(self.small, resized, stats, crops[GLOBAL:], valid, own, train)
            found["projection"] = jnp.concatenate([found["projection"], local["projection"]], 1)
        return found, statistics("batch_stats", stats) if train else {}

    def _held(self, params, step):
        """The parameters, without gradient for the prototypes during the first steps."""
        kernel = params["projector"]["prototypes"]["kernel"]
        kernel = jnp.where(step < self.frozen_steps, jax.lax.stop_gradient(kernel), kernel)
        projector = params["projector"] | {"prototypes": {"kernel": kernel}}
        return params | {"projector": projector}

    def resized(self, params):
        """The parameters for pictures of the local crops' size: learned positions are interpolated."""
        whole, small = self.model.backbone, self.small.backbone
        if "position" not in params["backbone"] or small.size == whole.size:
            return params
        table = params["backbone"]["position"]["table"]
        first = table.shape[0] - whole.count
        patches = wide(table[first:]).reshape(whole.grid, whole.grid, -1)
        patches = jax.image.resize(patches, (small.grid, small.grid, patches.shape[-1]), "cubic", antialias=False)
        table = jnp.concatenate([table[:first], patches.reshape(small.count, -1).astype(table.dtype)])
        return params | {"backbone": params["backbone"] | {"position": {"table": table}}}

    def advance(self, params, extras, collected, key, step):
        count, keep = collected["count"].array, self.centre_momentum
        mean = collected["outputs"].array / jnp.maximum(count, 1)
        centre = jnp.where(count > 0, keep * extras["centre"] + (1 - keep) * mean, extras["centre"])
        teacher = averaged(extras["teacher"], params, self.momentum_at(step))
        return params, extras | {"teacher": teacher, "centre": centre}


def losses(student: jax.Array, teacher: jax.Array, centre: jax.Array, student_temperature: float, rate):
    """(cross-entropy [B], the teacher's entropy [B] in units of ln K) of outputs [B, crops, K] of the student and [B, 2, K] of
    the teacher at the temperature `rate`; crop i of the teacher is crop i of the student, and these pairs are left out."""
    target = jax.nn.log_softmax((wide(teacher) - centre) / rate)
    pairs = -jnp.einsum("btk,bsk->bts", jnp.exp(target), jax.nn.log_softmax(wide(student) / student_temperature))
    other = jnp.arange(teacher.shape[1])[:, None] != jnp.arange(student.shape[1])[None]
    entropy = -(jnp.exp(target) * target).sum(-1).mean(1) / jnp.log(teacher.shape[2])
    return jnp.where(other, pairs, 0).sum((1, 2)) / other.sum(), entropy
