"""Weighted nearest neighbours (Wu et al. 2018, section 3.4): what the features know without any further training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

COSINES = 2**24  # held at once: 64 MiB in float32


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """float32[N, D] of length 1; a row of zeros stays."""
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnums=0)
def _nearest(count: int, bank: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(jnp.matmul(queries, bank.T, precision="highest"), count)


def nearest(bank: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(int32[M, count] rows of the bank, float32[M, count] their cosines), nearest first; of equal ones the earlier row.

    bank: float[N, D], N >= count. queries: float[M, D]. Both are brought to length 1 first.
    """
    bank, queries = jnp.asarray(unit_rows(bank)), unit_rows(queries)
    size = max(1, min(len(queries), COSINES // len(bank)))
    cosines, rows = [], []
    for first in range(0, len(queries), size):
        part = np.minimum(np.arange(first, first + size), len(queries) - 1)  # one shape, one program
        found = _nearest(count, bank, queries[part])
        cosines.append(np.asarray(found[0]))
        rows.append(np.asarray(found[1]))
    return np.concatenate(rows)[: len(queries)], np.concatenate(cosines)[: len(queries)]


def predict(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """int[M]: for each query the class whose members among its k nearest have the largest sum of exp(cosine / temperature);
    of equal ones the smaller number.

    labels: int[N] of the bank, 0 or more.
    """
    rows, cosines = nearest(bank, queries, k)
    weights = np.exp((cosines - cosines[:, :1]) / temperature)  # against the nearest: no temperature overflows
    scores = np.zeros((len(queries), int(labels.max()) + 1))
    np.add.at(scores, (np.arange(len(queries))[:, None], np.asarray(labels)[rows]), weights)
    return scores.argmax(1)


def accuracy(bank, labels, queries, truth, k: int = 20, temperature: float = 0.07) -> float:
    """The share of queries whose class `predict` finds; truth: int[M]."""
    return float((predict(bank, labels, queries, k, temperature) == truth).mean())


def name(k: int, temperature: float, layer: str) -> str:
    """What the figure depends on, as its metric is named: "k20_t0.07_features_l2"; l2 says that rows have length 1."""
    return f"k{k}_t{temperature:g}_{layer}_l2"
