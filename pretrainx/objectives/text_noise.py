"""Noise for whole texts (BART: Lewis et al. 2020, section 2.2): sentences permuted, spans of Poisson length infilled, tokens
masked or deleted, the text rotated. Of one row, in fixed shapes, on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.objectives.spans import LAST, random_order, shuffled

# Spans of length 0 use up no budget: after so many draws for each word of it a text has had enough.
DRAWS_PER_WORD = 4


@dataclass(frozen=True)
class TextNoise:
    """How a text is spoiled.

    Attributes:
      infilling: share of the words that spans cover; each span becomes one mask.
      poisson: mean length of a span in words; a span of length 0 is a mask put in.
      permute_sentences: whether sentences come in a random order.
      masking, deletion: chance of each token that infilling left to become a mask, and to vanish.
      rotation: chance that the text begins at a random token, what was before it following at the end.
    """

    infilling: float = 0.3
    poisson: float = 3.0
    permute_sentences: bool = True
    masking: float = 0.0
    deletion: float = 0.0
    rotation: float = 0.0


def noised(
    key: jax.Array,
    tokens: jax.Array,
    length: jax.Array,
    sentences: jax.Array | None,
    words: jax.Array | None,
    noise: TextNoise,
    mask: int,
    pad: int,
) -> tuple[jax.Array, jax.Array]:
    """(text int32[N], its length) of the first `length` of tokens int32[N]; padding follows.

    sentences: bool[N], where a token ends one; words: bool[N], where a token begins one (None: each token is a word). Masks
    that are put in may make a text longer: they are as many as the row has room for.
    """
    to_permute, to_infill, to_insert, to_mask, to_delete, to_rotate = jax.random.split(key, 6)
    real = jnp.arange(tokens.shape[0]) < length
    starts = jnp.ones_like(real) if words is None else words
    if noise.permute_sentences:
        order = sentence_order(to_permute, sentences, length)
        tokens, starts = tokens[order], starts[order]
    starts = (starts & real).at[0].set(length > 0)
    kept, masked, inserts = infilling(to_infill, starts, real, noise.infilling, noise.poisson)
    plain = kept & ~masked
    if noise.deletion:
        kept &= ~(plain & jax.random.bernoulli(to_delete, noise.deletion, kept.shape))
    if noise.masking:
        masked |= plain & jax.random.bernoulli(to_mask, noise.masking, kept.shape)
    text, size = inserted(to_insert, jnp.where(masked, mask, tokens), kept, inserts, mask, pad)
    if noise.rotation:
        text = jnp.where(jnp.arange(text.shape[0]) < size, rotated(to_rotate, text, size, noise.rotation), pad)
    return text, size


def sentence_order(key: jax.Array, ends: jax.Array, length: jax.Array) -> jax.Array:
    """int32[N]: which token comes at each place once the sentences are in a random order; all orders equally likely.

    ends: bool[N], where a token ends a sentence; the last of the `length` real tokens always does. Padding stays where it is.
    """
    sentence = jnp.cumsum(ends) - ends
    drawn = random_order(key, ends.shape[0])[sentence]
    return jnp.argsort(jnp.where(jnp.arange(ends.shape[0]) < length, drawn, LAST))


def poisson_lengths(key: jax.Array, mean: float, count: int) -> jax.Array:
    """int32[count] draws of a Poisson law, by its cumulative probabilities: rejection would loop as long as the slowest row."""
    probabilities, total = [math.exp(-mean)], math.exp(-mean)
    while 1 - total > 2.0**-26:
        probabilities.append(probabilities[-1] * mean / len(probabilities))
        total += probabilities[-1]
    return jnp.searchsorted(
        jnp.asarray(np.cumsum(probabilities), jnp.float32),
        jax.random.uniform(key, (count,), jnp.float32),
        side="right",
        method="compare_all",
    ).astype(jnp.int32)


def budget(words: int, share: float) -> int:
    """ceil(share of the words), computed exactly."""
    return math.ceil(words * Fraction(str(share)))


def infilling(
    key: jax.Array, starts: jax.Array, real: jax.Array, share: float, mean: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(kept bool[N], masked bool[N], inserts int32[]): which tokens stay, which of these stand as the mask of a span, and how
    many spans of length 0 there are.

    Lengths are drawn until their sum reaches the budget, and the last is trimmed. Spans begin at words drawn without
    replacement. They may overlap: what two cover is removed once, and the mask of a span that begins in another is covered.
    """
    size = starts.shape[0]
    number = jnp.arange(size)
    words = starts.sum(dtype=jnp.int32)
    table = np.array([budget(count, share) for count in range(size + 1)], np.int32)
    allowed = jnp.asarray(table)[words]
    to_lengths, to_places = jax.random.split(key)
    drawn = poisson_lengths(to_lengths, mean, DRAWS_PER_WORD * int(table[-1]))
    before = jnp.cumsum(drawn, dtype=jnp.int32) - drawn
    used = (before < allowed) & (jnp.arange(drawn.shape[0]) < DRAWS_PER_WORD * allowed)
    positive = used & (drawn > 0)
    place = jnp.where(positive, jnp.cumsum(positive) - 1, size)
    # Of span i, i < the words: a budget of so many words has no more spans than that.
    lengths = jnp.zeros(size, jnp.int32).at[place].set(jnp.minimum(drawn, allowed - before), mode="drop")
    at = jnp.zeros(size, jnp.int32).at[shuffled(to_places, words, size)].set(lengths, unique_indices=True)
    # Per word from here: a word is covered where a span before it reaches further.
    reach = jax.lax.cummax(jnp.where(at > 0, number + at, 0))
    covered = jnp.concatenate([jnp.zeros(1, jnp.int32), reach[:-1]]) > number
    begins = (at > 0) & ~covered
    word = jnp.maximum(jnp.cumsum(starts) - 1, 0)
    masked = begins[word] & starts & real
    return real & (masked | ~(begins | covered)[word]), masked, (used & (drawn == 0)).sum(dtype=jnp.int32)


def inserted(
    key: jax.Array, tokens: jax.Array, kept: jax.Array, count: jax.Array, mask: int, pad: int
) -> tuple[jax.Array, jax.Array]:
    """(text int32[N], its length): the kept of tokens int32[N], with `count` masks at random places between them, before the
    first, or after the last; fewer where N leaves no room."""
    size = tokens.shape[0]
    place = jnp.arange(size)
    text = jnp.full(size, pad, jnp.int32).at[jnp.where(kept, jnp.cumsum(kept) - 1, size)].set(tokens, mode="drop")
    left = kept.sum(dtype=jnp.int32)
    count = jnp.minimum(count, size - left)
    new = jnp.zeros(size, bool).at[shuffled(key, left + count, size)].set(place < count, unique_indices=True)
    text = jnp.where(new, mask, text[jnp.maximum(place - jnp.cumsum(new), 0)])
    return jnp.where(place < left + count, text, pad).astype(jnp.int32), left + count


def rotated(key: jax.Array, text: jax.Array, length: jax.Array, chance: float) -> jax.Array:
    """int32[N]: with this chance the first `length` tokens of the text begin at a random one of them."""
    to_decide, to_place = jax.random.split(key)
    shift = jax.random.randint(to_place, (), 0, jnp.maximum(length, 1))
    shift = jnp.where(jax.random.bernoulli(to_decide, chance), shift, 0)
    return text[(jnp.arange(text.shape[0]) + shift) % jnp.maximum(length, 1)]
