"""What an encoder says of pictures: one row of features for each, and the raw pixels that they are measured against."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.data.loader import place
from pretrainx.objectives import crops
from pretrainx.objectives.augmentation import Augmentation
from pretrainx.objectives.objective import Objective
from pretrainx.objectives.pixels import unit
from pretrainx.parallel import distributed
from pretrainx.parallel.rules import Rules, constrain

LAYER = "features"  # pooled, of the last layer, before any projector
PIXEL_SIDE = 32


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _features(
    objective: Objective,
    rules: Rules,
    layer: str,
    augmentation: Augmentation | None,
    params,
    extras,
    images: jax.Array,
    key: jax.Array,
    first: jax.Array,
) -> jax.Array:
    with rules.bound():
        if augmentation is not None:
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(len(images)))
            changed = jax.vmap(lambda key, image: augmentation(key, unit(image)))(keys, images)
            images = jnp.round(255 * changed).astype(jnp.uint8)  # as pictures are stored: outputs normalises them
        found = objective.outputs(params, extras, {"image": images}, (layer,))[layer].astype(jnp.float32)
        return constrain(found.reshape(len(found), -1, found.shape[-1]).mean(1), None, None)


def features(
    objective: Objective,
    rules: Rules,
    params: Any,
    extras: Any,
    images: np.ndarray,
    *,
    layer: str = LAYER,
    rows: int = 256,
    augmentation: Augmentation | None = None,
    key: jax.Array | None = None,
) -> np.ndarray:
    """float32[N, D] of images uint8[N, S, S, C], N >= 1: the output `layer` of the frozen objective, in evaluation mode.

    `layer`: a name that the objective's outputs know; of one with a row for each token (as "hidden") the mean over all of
    them. `rows`: pictures at once, rounded up to what the mesh divides; the last batch is filled up with its last picture.
    With an `augmentation` each picture is changed first, by the key of its row and `key` alone, whatever `rows` is.
    """
    ways = rules.batch_ways()
    size = -(-min(rows, len(images)) // ways) * ways
    key = jax.random.key(0) if key is None else key
    found = []
    for first in range(0, len(images), size):
        part = np.minimum(np.arange(first, first + size), len(images) - 1)
        batch = np.asarray(images[part])
        placed = place(batch, rules.rows(batch.shape))
        arguments = params, extras, placed, key, np.int32(first)
        found.append(np.asarray(distributed.settled(_features(objective, rules, layer, augmentation, *arguments))))
    return np.concatenate(found)[: len(images)]


def pixels(images: np.ndarray, rows: int = 256) -> np.ndarray:
    """float32[N, s*s*C] of images uint8[N, S, S, C]: pixels / 255 as features, the floor under every encoder. Pictures larger
    than PIXEL_SIDE are resampled to that first, s = min(S, PIXEL_SIDE), `rows` at a time: theirs would fill the memory."""
    if images.shape[1] <= PIXEL_SIDE:
        return np.asarray(images, np.float32).reshape(len(images), -1) / 255
    parts = (images[first : first + rows] for first in range(0, len(images), rows))
    smaller = [np.asarray(_smaller(np.asarray(part))) for part in parts]
    return np.concatenate(smaller).reshape(len(images), -1)


@jax.jit
def _smaller(images: jax.Array) -> jax.Array:
    return crops.whole(unit(images), PIXEL_SIDE)
