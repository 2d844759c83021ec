"""Whether embeddings of different pictures still differ: cheap monitors of a batch, reported with every step.

Thresholds are proposed once, here, for any objective: below either an encoder has collapsed, or is about to.

| objective | whose embeddings | alignment of |
|---|---|---|
| simclr, byol, simsiam, moco_v3 | the trained network's projections | its two views |
| moco | its projections | query and the teacher's key |
| dino | its backbone's features (what is projected on are prototypes) | two global views |

simclr's and moco_v3's are of the whole batch, the others' of a microbatch. mae, beit and classification compare no views, and
a constant is no answer to what they ask: at each evaluation their features are measured (`evals.collapse`: RankMe, spread,
uniformity).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pretrainx.core.records import Mean
from pretrainx.models.unit import unit

# Without its negatives SimCLR puts digits on a line, which the rank tells before the deviation does: it falls from 0.25 to
# 0.03 in 50 steps of 128 pictures (d = 32), with them it stays above 0.16; SimSiam's above 0.09.
STD_ALARM, RANK_ALARM = 0.1, 0.06
# Variance of unit vectors below which what is left is rounding: it has no rank to speak of.
NOTHING = 1e-10


def embedding_metrics(z1: jax.Array, z2: jax.Array, valid: jax.Array) -> dict[str, Mean]:
    """Monitors of the embeddings of two views of n pictures, z1 and z2 [n, d], each normalised to length one first.

      embedding_std: standard deviation per dimension over pictures (of z1), averaged, times sqrt(d): 0 is collapsed, 1
        isotropic (Chen & He 2021, section 4.1).
      embedding_rank: (tr C)^2 / |C|^2 of the covariance C of z1, the number of directions in use, divided by the largest that
        it could be, min(d, n - 1): a share that a small batch does not pull down. This participation ratio is not RankMe
        (`evals.collapse`): it is centred, and needs no singular values.
      alignment: mean of |z1 - z2|^2 over pictures; uniformity: ln of the mean over pairs i != j of z1 of exp(-2 |zi - zj|^2)
        (Wang & Isola 2020). Collapsed: 0 and 0; on a large sphere uniformity tends to -4.

    Rows that are not `valid` count nowhere. Statistics of the rows at hand: where `encode` reports them, those of a microbatch,
    and the batch's figure is their mean, weighted by rows. Without gradient.
    """
    z1, z2 = unit(jax.lax.stop_gradient(z1)), unit(jax.lax.stop_gradient(z2))
    real = valid.astype(z1.dtype)[:, None]
    rows, width = real.sum(), z1.shape[1]
    count = jnp.maximum(rows, 1)
    centred = (z1 - (real * z1).sum(0) / count) * real
    variances = (centred * centred).sum(0) / count
    spread, total = jnp.sqrt(variances).mean() * width**0.5, variances.sum()
    product = _product(centred, centred.T) if len(z1) < width else _product(centred.T, centred)
    size = (product * product).sum() / count**2  # |C|^2, from the smaller of the two products
    directions = total**2 / jnp.where(total > NOTHING, size, 1)
    rank = jnp.where(total > NOTHING, directions / jnp.clip(rows - 1, 1, width), 0)
    apart = 2 - 2 * _product(z1, z1.T)
    other = real * real.T * (1 - jnp.eye(len(z1), dtype=z1.dtype))
    likeness = (other * jnp.exp(-2 * apart)).sum() / jnp.maximum(other.sum(), 1)
    values = {
        "embedding_std": spread,
        "embedding_rank": rank,
        "alignment": (real * (z1 - z2) ** 2).sum() / count,
        "uniformity": jnp.log(jnp.where(likeness > 0, likeness, 1)),
    }
    return {name: Mean(value * rows, rows) for name, value in values.items()}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
