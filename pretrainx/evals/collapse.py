"""Whether representations still differ: rank, spread and uniformity of a set of embeddings, in float64.

Of a fixed set that training never sees, of at least four times as many rows as dimensions: fewer rows have a smaller rank.
"""

from __future__ import annotations

import numpy as np

_ROWS = 1024  # of pairwise products at once


def rankme(z: np.ndarray) -> float:
    """RankMe of Z float[N, D], not centred: exp(-sum p ln p), p_k = s_k / sum s + 1e-7 of the singular values s.

    1 (all rows are multiples of one) up to min(N, D). Garrido et al. 2023, section 3.
    """
    return _rank(_shares(z) + 1e-7)


def effective_rank(z: np.ndarray) -> float:
    """As `rankme` without the 1e-7, not centred either. Roy and Vetterli 2007, section 2."""
    return _rank(_shares(z))


def embedding_std(z: np.ndarray) -> float:
    """The standard deviation of each dimension over rows of length 1, averaged, times sqrt(D): 0 where all rows are equal,
    1 where they point everywhere alike. Chen and He 2021, section 4.1."""
    return float(_unit(z).std(0).mean() * np.sqrt(z.shape[1]))


def uniformity(z: np.ndarray) -> float:
    """ln mean exp(-2 |z_i - z_j|^2) over all i != j, rows of length 1: 0 where all are equal, about -4 where they are spread
    over a sphere of many dimensions. Wang and Isola 2020, section 4.1."""
    z = _unit(z)
    total = 0.0
    for first in range(0, len(z), _ROWS):
        cosines = z[first : first + _ROWS] @ z.T
        cosines[np.arange(len(cosines)), np.arange(first, first + len(cosines))] = -np.inf  # a row and itself
        total += np.exp(4 * cosines - 4).sum()
    return float(np.log(total / (len(z) * (len(z) - 1))))


def top_variance_share(z: np.ndarray) -> float:
    """The share of the variance that lies along one direction: 1/D where all have as much; 1 where rows are equal."""
    z = np.asarray(z, np.float64)
    centred = z - z.mean(0)
    product = (
        centred @ centred.T if len(z) < z.shape[1] else centred.T @ centred
    )  # the smaller has the same eigenvalues
    total = np.trace(product) / len(z)
    return float(np.linalg.eigvalsh(product)[-1] / len(z) / total) if total > 1e-12 * (z**2).mean() else 1.0  # rounding


def measures(z: np.ndarray) -> dict[str, float]:
    """Those of one set float[N, D], N >= 2, by name."""
    shares = _shares(z)  # once: the decomposition is nearly all of the work
    ranks = {"rankme": _rank(shares + 1e-7), "effective_rank": _rank(shares)}
    return ranks | {each.__name__: each(z) for each in (embedding_std, uniformity, top_variance_share)}


def _rank(shares: np.ndarray) -> float:
    p = shares[shares > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def _shares(z: np.ndarray) -> np.ndarray:
    values = np.linalg.svd(np.asarray(z, np.float64), compute_uv=False)
    return values / max(values.sum(), np.finfo(np.float64).tiny)


def _unit(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, np.float64)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
