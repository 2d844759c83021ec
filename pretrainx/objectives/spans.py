"""Spans of a text that are hidden behind sentinels: their law, their lengths, and the two sequences made of them.

Raffel et al. 2020, section 3.1.4. The number of hidden tokens and of spans depends on the length of the text alone, so rows of
one length give sequences of one length, and a stream cut into pieces of `raw` tokens needs no padding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

LAST = np.uint32(2**32 - 1)  # sorts behind every number of `random_order`


@dataclass(frozen=True)
class SpanLengths:
    """Tokens of a full row before and after its spans are hidden.

    Attributes:
      raw: of the text.
      source: of the encoder's input: kept text, a sentinel for each span, the end.
      target: of what is recovered: each span behind its sentinel, the end.
      noise: hidden tokens.
      spans: hidden spans.
    """

    raw: int
    source: int
    target: int
    noise: int
    spans: int


def counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(hidden tokens, hidden spans) of a text of `length` tokens: clip(round(length density), 1, length - 1) tokens in
    max(1, round(tokens / mean_span)) spans, halves to even, computed exactly.

    A text of one token is one of two, cut off: nothing of it is hidden. There are never more spans than hidden or than kept
    tokens, which only a density above 1/2 or a mean span below 1 would ask for.
    """
    if length < 2:
        return 0, 0
    # Of the decimals that were written: 0.15 is 3/20, not its binary neighbour.
    noise = min(max(round(length * Fraction(str(density))), 1), length - 1)
    spans = max(1, round(noise / Fraction(str(mean_span))))
    return noise, min(spans, noise, length - noise)


@functools.cache
def tables(raw: int, density: float, mean_span: float) -> tuple[np.ndarray, np.ndarray]:
    """(hidden tokens, hidden spans) for every length 0 .. raw, each int32[raw + 1]."""
    found = np.array([counts(length, density, mean_span) for length in range(raw + 1)], np.int32)
    return found[:, 0], found[:, 1]


def lengths_of(raw: int, density: float, mean_span: float) -> SpanLengths:
    """What rows of `raw` tokens become."""
    noise, spans = counts(raw, density, mean_span)
    return SpanLengths(raw, raw - noise + spans + 1, noise + spans + 1, noise, spans)


@functools.cache
def raw_length(input_length: int, density: float, mean_span: float) -> int:
    """The largest number of text tokens whose encoder input has at most `input_length`; 0 where not even two fit.

    The input grows by one token or by none with each token of the text, while spans are fewer than kept tokens: an input of at
    least 3 tokens is filled exactly.
    """
    raw = 0 if lengths_of(2, density, mean_span).source > input_length else 2
    while raw and lengths_of(raw + 1, density, mean_span).source <= input_length:
        raw += 1
    return raw


def shuffled(key: jax.Array, count: jax.Array, size: int) -> jax.Array:
    """int[size]: the numbers 0 .. count - 1 in a random order, all orders equally likely; then the rest, in theirs."""
    return jnp.argsort(jnp.where(jnp.arange(size) < count, random_order(key, size), LAST))


def random_order(key: jax.Array, size: int) -> jax.Array:
    """uint32[size] random numbers to sort by, each below LAST."""
    return jax.random.bits(key, (size,), jnp.uint32) >> 1


def composition(key: jax.Array, total: jax.Array, parts: jax.Array, largest: int, most: int) -> jax.Array:
    """Where the parts of a random composition end: int32[most] cumulative sums, `total` from the last part on.

    `total` tokens are cut into `parts` positive parts, all compositions equally likely: parts - 1 of the total - 1 gaps are
    drawn without replacement. largest, most: bounds of the two.
    """
    cuts = shuffled(key, total - 1, largest - 1)[: most - 1] + 1
    cuts = jnp.where(jnp.arange(most - 1) < parts - 1, cuts, total)
    return jnp.append(jnp.sort(cuts), total).astype(jnp.int32)


def span_ends(
    key: jax.Array, length: jax.Array, raw: int, density: float, mean_span: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(kept int32[S], hidden int32[S], spans int32[]): how many tokens were kept and hidden up to the end of each span.

    The text is kept, hidden, kept, hidden ...: it begins with kept text and ends with a hidden span. S is the number of spans
    of a text of `raw` tokens, and length <= raw may be traced.
    """
    noise_table, span_table = tables(raw, density, mean_span)
    noise, spans = jnp.asarray(noise_table)[length], jnp.asarray(span_table)[length]
    most, to_hide, to_keep = int(span_table[raw]), int(noise_table[raw]), raw - int(noise_table[raw])
    hide, keep = jax.random.split(key)
    kept = composition(keep, length - noise, spans, to_keep, most)
    return kept, composition(hide, noise, spans, to_hide, most), spans


def corrupted(
    key: jax.Array,
    tokens: jax.Array,
    length: jax.Array,
    density: float,
    mean_span: float,
    sentinels: tuple[int, ...],
    end: int,
    pad: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(source int32[S], its length, targets int32[T], their length) of the first `length` of tokens int32[raw].

    source is kept_1 <S0> kept_2 <S1> ... <end>; targets are <S0> hidden_1 <S1> hidden_2 ... <end>; padding follows.
    """
    full = lengths_of(tokens.shape[0], density, mean_span)
    kept, hidden, spans = span_ends(key, length, full.raw, density, mean_span)
    before = lambda ends: jnp.concatenate([jnp.zeros(1, jnp.int32), ends])
    marks = jnp.asarray(sentinels[: full.spans], jnp.int32)

    def sequence(width, size, behind, skipped):
        """[width]: sentinel i is behind behind[i] of the text's tokens; skipped[i] tokens of the text are left out before those
        that have i sentinels before them."""
        place, number = jnp.arange(width), jnp.arange(full.spans)
        at = jnp.zeros(width, jnp.int32).at[jnp.where(number < spans, behind + number, width)].set(1, mode="drop")
        passed = jnp.cumsum(at)
        text = tokens[jnp.clip(place - passed + skipped[passed], 0, full.raw - 1)]
        made = jnp.where(at > 0, marks[passed - 1], text)
        return jnp.where(place < size - 1, made, jnp.where(place == size - 1, end, pad)).astype(jnp.int32)

    source_length, target_length = length - hidden[-1] + spans + 1, hidden[-1] + spans + 1
    source = sequence(full.source, source_length, kept, before(hidden))
    targets = sequence(full.target, target_length, before(hidden[:-1]), before(kept))
    return source, source_length, targets, target_length
