"""Codes of a visual tokenizer: how they move, how many of them are in use, and whether another model may learn from them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.visual_tokenizer import ids_of, pictures_of, unit_length
from pretrainx.objectives import pixels

# A tokenizer below this perplexity (as a share of K), or with more dead codes, is no target of another model.
LEAST_PERPLEXITY, MOST_DEAD = 0.2, 0.3


def perplexity(counts: jax.Array) -> jax.Array:
    """exp(-sum p ln p) of how often each code was chosen: K where all are chosen alike, 1 where one is, or none."""
    share = counts / jnp.maximum(counts.sum(), 1e-30)
    return jnp.exp(-jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0).sum())


def dead_share(counts: jax.Array, below: float) -> jax.Array:
    """Share of codes chosen less than `below` times as often as the average code."""
    return (counts <= below * counts.mean()).mean(dtype=float)


def moved(
    state: dict[str, jax.Array],
    counts: jax.Array,
    sums: jax.Array,
    fresh: tuple[jax.Array, jax.Array],
    key: jax.Array,
    decay: float,
    epsilon: float,
    revive_below: float,
    normalise: bool,
) -> dict[str, jax.Array]:
    """The codebook after a step (van den Oord et al. 2017, appendix A.1).

    N_k <- decay N_k + (1 - decay) n_k;  m_k <- decay m_k + (1 - decay) sum of the vectors that chose k;
    e_k = m_k / (N_k smoothed), smoothed = (N_k + epsilon) / (N + K epsilon) N with N the sum of all N_k.
    A code with N_k < revive_below x (vectors of the batch / K) is dead: it becomes a random vector of the batch, with twice
    that N_k, so that it soon has another chance if it is not chosen, and follows those who choose it. At the first step nearly
    all codes are dead: so the codebook starts from data.

    Args:
      state: {"counts": N_k [K], "sums": m_k [K, c], "codebook": [K, c]; "used": [K], the running mean of n_k, which
        revival does not touch}, float32 or wider.
      counts, sums: n_k and the sums, of this batch.
      fresh: (vectors [M, c] of the batch, valid bool[M]).
      normalise: codes have length 1.
    """
    blend = lambda name, new: decay * state[name] + (1 - decay) * new.astype(state[name].dtype)
    counts_after, sums_after = blend("counts", counts), blend("sums", sums)
    total, codes = counts_after.sum(), counts_after.shape[0]
    smoothed = (counts_after + epsilon) / (total + codes * epsilon) * total
    found = sums_after / jnp.maximum(smoothed, 1e-30)[:, None]
    found = unit_length(found) if normalise else found
    average = (counts.sum() / codes).astype(counts_after.dtype)
    least = revive_below * average
    dead = counts_after < least
    vectors, valid = fresh
    # Every dead code another vector, as long as there are enough; invalid rows come last and are not reached.
    order = jnp.argsort(jax.random.uniform(key, valid.shape, jnp.float32) + 2 * ~valid)
    number = jnp.cumsum(dead) - 1
    chosen = vectors[order[number % jnp.maximum(valid.sum(), 1)]].astype(found.dtype)
    return {
        "counts": jnp.where(dead, 2 * least, counts_after),
        "sums": jnp.where(dead[:, None], 2 * least * chosen, sums_after),
        "codebook": jnp.where(dead[:, None], chosen, found),
        "used": blend("used", counts),
    }


def usage(
    module: nn.Module, tree: Any, images: Images, pictures: np.ndarray, batch_size: int = 256
) -> dict[str, float]:
    """How a frozen tokenizer codes pictures [N, S, S, C], bytes or floats in [0, 1]: "perplexity" of its codes, "dead": the
    share that no cell chose, "mse" of what it makes of the ids, in units of the data's variance.

    Take so many pictures that there are ten cells or more for each code: with fewer, unlucky codes count as dead.
    """

    @jax.jit
    def scores(tree, batch, valid):
        found = pixels.unit(batch)
        ids = ids_of(module, tree, found)
        error = pixels.normalised(found, images) - pixels.normalised(pictures_of(module, tree, ids), images)
        weights = jnp.broadcast_to(valid[:, None, None], ids.shape).astype(jnp.float32)
        counts = jnp.zeros(module.count).at[ids].add(weights)
        return counts, (jnp.square(error).mean((1, 2, 3)) * valid).sum()

    counts, error = np.zeros(module.count), 0.0
    for start in range(0, len(pictures), batch_size):
        batch = np.asarray(pictures[start : start + batch_size])
        missing = batch_size - len(batch)
        valid = np.arange(batch_size) < len(batch)
        new, wrong = scores(tree, np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0))), valid)
        counts, error = counts + np.asarray(new, np.float64), error + float(wrong)
    return {
        "perplexity": float(perplexity(jnp.asarray(counts))),
        "dead": float((counts == 0).mean()),
        "mse": error / len(pictures),
    }


def gate(perplexity: float, dead: float, codes: int, clusters: bool = False) -> None:
    """ConfigError where a tokenizer uses too little of its codebook: targets that are nearly always the same teach nothing.

    clusters: the codes are k-means centres of patches, which no run has trained.
    """
    if perplexity > LEAST_PERPLEXITY * codes and dead < MOST_DEAD:
        return
    longer = "train it longer, or with fewer codes (config.model.codes) or more frequent revival "
    raise ConfigError(
        "the tokenizer has collapsed: its codes are no targets",
        where="config.objective." + ("clusters" if clusters else "tokenizer"),
        why=f"perplexity {perplexity:.1f} of {codes} codes (needed: more than {LEAST_PERPLEXITY * codes:.1f}), "
        f"dead codes {dead:.0%} (needed: less than {MOST_DEAD:.0%})",
        do="choose fewer of them" if clusters else f"{longer}(config.objective.revive_below)",
    )
