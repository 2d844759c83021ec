"""A network that several views of a picture go through, with its heads; and how networks with running statistics are run."""

from __future__ import annotations

import jax
from flax import linen as nn

from pretrainx.core.paths import Tree
from pretrainx.models.heads import MlpHead

STATISTICS = "batch_stats"


class Siamese(nn.Module):
    """Backbone, projector, and where there is one, predictor; their parameters stand under these names."""

    backbone: nn.Module
    projector: MlpHead
    predictor: MlpHead | None = None

    def __call__(
        self, images: jax.Array, keys: jax.Array | None = None, valid: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """{"features": [B, D], "projection": [B, E], and where there is a predictor "prediction": [B, E]} of [B, S, S, C]."""
        features = self.backbone(images, keys, valid, train)
        found = {"features": features, "projection": self.projector(features, valid, train)}
        if self.predictor is not None:
            found["prediction"] = self.predictor(found["projection"], valid, train)
        return found

    def features(
        self, images: jax.Array, keys: jax.Array | None = None, valid: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """[B, D], what heads read"""
        return self.backbone(images, keys, valid, train)


def run(model: nn.Module, params: Tree, stats: Tree, *args, train: bool, method=None, **kw) -> tuple:
    """(result, statistics after it) of a model that has BatchNorm or not.

    train: whether BatchNorm makes its statistics of the rows; it is handed on to the method, __call__ where None.
    stats: of the collection "batch_stats", {} where the model has none; they move only where train is True.
    """
    given, moving = {"params": params} | ({STATISTICS: stats} if stats else {}), bool(train and stats)
    mutable = [STATISTICS] if moving else False
    found = model.apply(given, *args, train=train, method=method, mutable=mutable, **kw)
    if not moving:
        return found, stats
    result, new = found
    return result, new[STATISTICS]


def variables(model: nn.Module, key: jax.Array, *args) -> tuple[Tree, Tree]:
    """(parameters, running statistics or {}), boxed, of a model that is called with these arguments."""
    found = model.init(key, *args)
    return found["params"], found.get(STATISTICS, {})


def hidden(backbone: nn.Module, params: Tree, images: jax.Array, keys: jax.Array | None) -> jax.Array:
    """[B, 1 + n, D], what the heads of a backbone of patches read of whole pictures [B, S, S, C]."""
    apply = lambda method, *args: backbone.apply({"params": params}, *args, method=method)
    return apply("hidden", apply("blocks", apply("embed", images, keys), keys))
