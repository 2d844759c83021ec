"""Which tokens of a row a masked language model has to recover, and what stands in their place (Devlin et al. 2019, section
3.1; Liu et al. 2019, section 4.1).

Pure functions on one row of T tokens, of fixed shapes: they run inside the step, vmapped over rows. All draws are of 32 bits
whatever the default precision, so that a row has one mask.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Units(NamedTuple):
    """What is drawn as one: tokens, or whole words. There are at most T; a unit without a candidate is never drawn.

    Attributes:
      numbers: int32[T], the unit that a token belongs to.
      sizes: int32[T], how many candidates each unit has.
    """

    numbers: jax.Array
    sizes: jax.Array


def units(candidates: jax.Array, begins: jax.Array | None = None) -> Units:
    """Single tokens, or with `begins` bool[T] (where a token begins a word) words.

    candidates: bool[T], the tokens that may be selected. The others belong to no word, and a word does not go on behind them.
    """
    if begins is None:
        return Units(jnp.arange(candidates.shape[0], dtype=jnp.int32), candidates.astype(jnp.int32))
    alone = ~candidates | jnp.concatenate([jnp.ones(1, bool), ~candidates[:-1]])
    numbers = jnp.cumsum(begins | alone, dtype=jnp.int32) - 1
    sizes = jnp.zeros(candidates.shape, jnp.int32).at[numbers].add(candidates.astype(jnp.int32))
    return Units(numbers, sizes)


def bernoulli(key: jax.Array, candidates: jax.Array, fraction: float, drawn: Units) -> jax.Array:
    """bool[T]: each unit is selected with probability `fraction`, independently (RoBERTa)."""
    chances = jax.random.uniform(key, candidates.shape, jnp.float32)
    return candidates & (chances < fraction)[drawn.numbers]


def exact(key: jax.Array, candidates: jax.Array, budget: jax.Array, drawn: Units) -> jax.Array:
    """bool[T]: units drawn without replacement until they hold `budget` tokens; one that would exceed it is skipped (BERT).

    A unit that does not fit once fits never again, since what is left only shrinks. So each round takes, in the drawn
    order, all units before the first that does not fit: there are at most as many rounds as different sizes, and for
    single tokens one.
    """
    order = jnp.argsort(jax.random.bits(key, candidates.shape, jnp.uint32))
    sizes = drawn.sizes[order]

    def fit(taken, left):
        return ~taken & (sizes > 0) & (sizes <= left)

    def take(state):
        taken, left = state
        fitting = fit(taken, left)
        new = fitting & (jnp.cumsum(jnp.where(fitting, sizes, 0)) <= left)
        return taken | new, left - jnp.where(new, sizes, 0).sum(dtype=jnp.int32)

    start = jnp.zeros(candidates.shape, bool), jnp.asarray(budget, jnp.int32)
    taken, _ = jax.lax.while_loop(lambda state: fit(*state).any(), take, start)
    return candidates & jnp.zeros(candidates.shape, bool).at[order].set(taken)[drawn.numbers]


def budgets(length: int, fraction: float, most: int) -> np.ndarray:
    """int32[T + 1]: how many of n tokens `exact` selects, min(most, max(1, round(fraction n))), halves to even.

    A table made on the host, of the decimals that were written (0.35 is 7/20): rounded on the device, or in binary, some halves
    would be decided otherwise.
    """
    share = Fraction(str(fraction))
    return np.array([min(most, max(1, round(share * n))) for n in range(length + 1)], np.int32)


def bernoulli_bound(length: int, fraction: float, whole_word: bool) -> int:
    """How many of T tokens `bernoulli` selects at most, but for less than one row in five million: the mean and six standard
    deviations. Words are taken as if of four tokens; rows of longer ones pass it more often."""
    deviation = math.sqrt(length * fraction * (1 - fraction) * (4 if whole_word else 1))
    return min(length, math.ceil(length * fraction + 6 * deviation))


def replaced(
    key: jax.Array,
    tokens: jax.Array,
    selected: jax.Array,
    mask: int,
    mask_prob: float,
    random_prob: float,
    vocab_size: int,
    never: tuple[int, ...] = (),
) -> jax.Array:
    """int32[T]: each selected token becomes `mask`, or a random id, or stays, by one uniform number of its own.

    vocab_size, never: random ids are uniform over 0 .. vocab_size - 1 without `never`; the token's own id is one of them.
    """
    choosing, drawing = jax.random.split(key)
    chance = jax.random.uniform(choosing, tokens.shape, jnp.float32)
    other = jnp.where(chance < mask_prob + random_prob, random_ids(drawing, tokens.shape, vocab_size, never), tokens)
    return jnp.where(selected, jnp.where(chance < mask_prob, mask, other), tokens).astype(jnp.int32)


def random_ids(key: jax.Array, shape: tuple[int, ...], vocab_size: int, never: tuple[int, ...] = ()) -> jax.Array:
    """int32[shape], uniform over 0 .. vocab_size - 1 without `never`."""
    never = np.array(sorted({token for token in never if token < vocab_size}), np.int32)
    found = jax.random.randint(key, shape, 0, vocab_size - len(never), jnp.int32)
    # The i-th of the ids that are left out moves all ids from itself on by one.
    return found + jnp.searchsorted(jnp.asarray(never - np.arange(len(never), dtype=np.int32)), found, side="right")


def first(selected: jax.Array, count: int) -> jax.Array:
    """bool[T]: the first `count` of the selected tokens."""
    return selected & (jnp.cumsum(selected) <= count)


def gather_positions(weights: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """(positions int32[count], weights[positions]) of weights float[T]: those above zero first, in order, then others.

    No position occurs twice: a gradient that is scattered back meets each place once.
    """
    positions = jnp.argsort(weights <= 0, stable=True)[:count].astype(jnp.int32)
    return positions, weights[positions]
