"""The smallest visual tokenizer: patches, and which of K cluster centres is nearest. No network; a floor to compare with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pretrainx.core.axes import boxed
from pretrainx.core.images import Images
from pretrainx.models.patches import patchify, unpatchify
from pretrainx.models.visual_tokenizer import normal, quantised


class PatchClusters(nn.Module):
    """Pictures -> ids of the nearest centres [K, P x P x C] of their normalised patches, with a tokenizer's interface."""

    images: Images
    patch: int
    codes: int

    @property
    def cell(self) -> int:
        return self.patch

    @property
    def count(self) -> int:
        return self.codes

    def ids(self, pictures: jax.Array, codebook: jax.Array) -> jax.Array:
        """int32[B, G, G] of pictures float[B, S, S, C] in [0, 1]."""
        side = pictures.shape[1] // self.patch
        found = quantised(patchify(normal(pictures, self.images), self.patch), codebook)
        return found.reshape(-1, side, side)

    def pictures(self, ids: jax.Array, codebook: jax.Array) -> jax.Array:
        """float[B, S, S, C] of ids int32[B, G, G]: each cell is its centre."""
        patches = codebook[ids.reshape(ids.shape[0], -1)]
        found = unpatchify(patches, self.patch, self.images.channels)
        return found * jnp.asarray(self.images.std, found.dtype) + jnp.asarray(self.images.mean, found.dtype)

    def first_codebook(self, key: jax.Array):
        return boxed(jax.random.normal(key, (self.codes, self.patch**2 * self.images.channels)), "vocab", None)

    def __call__(self, images: jax.Array) -> jax.Array:
        return images


def fitted(images: Images, pictures: np.ndarray, patch: int, codes: int, seed: int = 0, rounds: int = 20) -> np.ndarray:
    """Centres float32[K, P x P x C] of the normalised patches of pictures [N, S, S, C], bytes or floats in [0, 1], by Lloyd's
    rounds from k-means++ starts (Arthur and Vassilvitskii 2007); a cluster that loses all its patches takes the farthest one.

    ValueError where there are fewer different patches than codes.
    """
    rng = np.random.default_rng(seed)
    if np.issubdtype(pictures.dtype, np.integer):
        pictures = pictures / np.float32(255)
    pictures = (pictures - np.float32(images.mean)) / np.float32(images.std)
    rows = np.asarray(patchify(pictures, patch)).reshape(-1, patch**2 * images.channels).astype(np.float32)
    if (different := len(np.unique(rows, axis=0))) < codes:
        raise ValueError(f"{different} different patches cannot have {codes} centres")
    centres = rows[rng.integers(len(rows))][None]
    nearest = np.square(rows - centres[0]).sum(1)
    while len(centres) < codes:
        centres = np.concatenate([centres, rows[rng.choice(len(rows), p=nearest / nearest.sum())][None]])
        nearest = np.minimum(nearest, np.square(rows - centres[-1]).sum(1))
    for _ in range(rounds):
        distances = np.square(rows).sum(1)[:, None] - 2 * rows @ centres.T + np.square(centres).sum(1)
        chosen = distances.argmin(1)
        sizes = np.bincount(chosen, minlength=codes)
        sums = np.zeros_like(centres)
        np.add.at(sums, chosen, rows)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        empty = np.flatnonzero(sizes == 0)
        centres[empty] = rows[distances.min(1).argsort()[::-1][: len(empty)]]
    return centres
