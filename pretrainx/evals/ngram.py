"""A trigram model, the baseline that a trained language model has to beat.

Interpolated Kneser-Ney smoothing: absolute discounting (Ney, Essen and Kneser 1994, "On structuring probabilistic
dependences in stochastic language modelling") with the lower-order distributions of Kneser and Ney 1995 ("Improved
backing-off for m-gram language modeling"), interpolated as in Chen and Goodman 1998 ("An empirical study of smoothing
techniques for language modeling", TR-10-98, sec. 2.7), one discount n1 / (n1 + 2 n2) for each order:

    p(w | u v) = max(c(u v w) - d, 0) / c(u v .) + d * types(u v .) / c(u v .) * p(w | v)

where the bigram and unigram levels count in how many different contexts a word was seen, not how often, and the
unigram level falls back to the uniform distribution, so that nothing has probability zero.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.core.vocabulary import Vocabulary

# Three ids are packed into one int64.
LARGEST_VOCABULARY = 2**21 - 1


@dataclass(frozen=True, eq=False)
class Level:
    """The counts of one order. An n-gram is the number context * V + word; K n-grams, C contexts.

    Attributes:
      ngrams: int64[K], sorted; counts: int64[K].
      contexts: int64[C], sorted; totals: int64[C], sums of counts; types: int64[C], numbers of different words.
      discount: what is taken from each count, in (0, 1).
    """

    ngrams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    types: np.ndarray
    discount: float

    def interpolate(self, contexts: np.ndarray, ngrams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """float64[n]: this level's probabilities, given those of the level below. An unseen context passes them on."""
        counts = _lookup(self.ngrams, self.counts, ngrams)
        totals, types = (_lookup(self.contexts, values, contexts) for values in (self.totals, self.types))
        return self.mixed(counts, totals, types, lower)

    def mixed(self, counts: np.ndarray, totals: np.ndarray, types: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """float64[n] from what was counted: of the n-grams, and of their contexts in all and in different words."""
        kept = np.maximum(counts - self.discount, 0.0)
        return np.where(totals > 0, (kept + self.discount * types * lower) / np.maximum(totals, 1), lower)

    def words_after(self, context: int, lower: np.ndarray) -> np.ndarray:
        """float64[V]: the probability of every word after one context, given those of the level below."""
        place = np.searchsorted(self.contexts, context)
        if place == len(self.contexts) or self.contexts[place] != context:
            return lower
        first, last = np.searchsorted(self.ngrams, [context * len(lower), (context + 1) * len(lower)])
        result = self.discount * self.types[place] * lower
        result[self.ngrams[first:last] - context * len(lower)] += self.counts[first:last] - self.discount
        return result / self.totals[place]


@dataclass(frozen=True, eq=False)
class Trigram:
    """A fitted model: `vocab_size` V and the levels of orders 1, 2 and 3."""

    vocab_size: int
    levels: tuple[Level, Level, Level]

    def probabilities(self, second_last: np.ndarray, last: np.ndarray, words: np.ndarray) -> np.ndarray:
        """float64[n], p(word | second_last last), for ids int[n]. A `second_last` of -1: unknown."""
        unigram, bigram, trigram = self.levels
        size = self.vocab_size
        last, words = np.asarray(last, np.int64), np.asarray(words, np.int64)
        # With second_last = -1 the pair is negative, hence an unseen context: the bigram level's answer stands.
        pairs = np.asarray(second_last, np.int64) * size + last
        result = np.full(words.shape, 1.0 / size)
        result = unigram.interpolate(np.zeros_like(words), words, result)
        result = bigram.interpolate(last, last * size + words, result)
        return trigram.interpolate(pairs, pairs * size + words, result)

    def following(self, second_last: int, last: int) -> np.ndarray:
        """float64[V], p(. | second_last last): `probabilities` of every word at once. -1 is an unknown id."""
        unigram, bigram, trigram = self.levels
        result = unigram.words_after(0, np.full(self.vocab_size, 1.0 / self.vocab_size))
        if last < 0:
            return result
        result = bigram.words_after(last, result)
        return result if second_last < 0 else trigram.words_after(second_last * self.vocab_size + last, result)

    @functools.cached_property
    def _columns(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The tables again, sorted so that what differs in one word lies together: see `_column`.

        Trigrams by (first, last, middle) and by (middle, last, first); their contexts by (second, first); bigrams by
        (second, first). Each as (sorted numbers, places in the level's own table).
        """
        size = self.vocab_size
        _, bigram, trigram = self.levels
        first, middle, last = trigram.ngrams // size**2, trigram.ngrams // size % size, trigram.ngrams % size
        turned = lambda pairs: pairs % size * size + pairs // size
        keys = (
            (first * size + last) * size + middle,
            (middle * size + last) * size + first,
            turned(trigram.contexts),
            turned(bigram.ngrams),
        )
        orders = [np.argsort(key) for key in keys]
        return tuple((key[order], order) for key, order in zip(keys, orders, strict=True))

    def _column(self, which: int, start: int, *values: np.ndarray) -> tuple[np.ndarray, ...]:
        """float64[V] of each of `values`, entry w from the n-gram or context that has number start * V + w in that order."""
        keys, order = self._columns[which]
        first, last = np.searchsorted(keys, [start * self.vocab_size, (start + 1) * self.vocab_size])
        words, places = keys[first:last] - start * self.vocab_size, order[first:last]
        found = np.zeros((len(values), self.vocab_size))
        found[:, words] = [value[places] for value in values]
        return tuple(found)

    def _preceding(self, before: int, after: int) -> np.ndarray:
        """float64[V], p(after | before w) for every w; `before` of -1 is unknown."""
        size = self.vocab_size
        unigram, bigram, trigram = self.levels
        zero = np.zeros(1, np.int64)
        lower = unigram.interpolate(zero, zero + after, np.full(1, 1.0 / size))[0]
        totals, types = np.zeros((2, size))
        totals[bigram.contexts], types[bigram.contexts] = bigram.totals, bigram.types
        result = bigram.mixed(self._column(3, after, bigram.counts)[0], totals, types, lower)
        if before < 0:
            return result
        first, last = np.searchsorted(trigram.contexts, [before * size, (before + 1) * size])
        words = trigram.contexts[first:last] - before * size
        totals, types = np.zeros((2, size))
        totals[words], types[words] = trigram.totals[first:last], trigram.types[first:last]
        (counts,) = self._column(0, before * size + after, trigram.counts)
        return trigram.mixed(counts, totals, types, result)

    def _enclosing(self, middle: int, after: int) -> np.ndarray:
        """float64[V], p(after | w middle) for every w."""
        trigram = self.levels[2]
        lower = self.probabilities(np.array([-1]), np.array([middle]), np.array([after]))[0]
        totals, types = self._column(2, middle, trigram.totals, trigram.types)
        (counts,) = self._column(1, middle * self.vocab_size + after, trigram.counts)
        return trigram.mixed(counts, totals, types, lower)

    def losses(self, tokens: np.ndarray) -> np.ndarray:
        """float64[n - 1], nats for each of tokens[1:] (tokens: int[n]); the first is predicted from one token only.

        Raises DataError for fewer than two tokens or an id outside the vocabulary.
        """
        tokens = _checked(tokens, self.vocab_size, 2, "the tokens to predict")
        before = np.concatenate([[-1], tokens[:-2]])
        return -np.log(self.probabilities(before, tokens[:-1], tokens[1:]))

    def loss(self, tokens: np.ndarray) -> float:
        """Mean nats per token for predicting tokens[1:]."""
        return float(self.losses(tokens).mean())


def fit(tokens: np.ndarray, vocab_size: int) -> Trigram:
    """Counts a stream, int[n] with n >= 3. About 0.3 seconds for a million tokens.

    Raises DataError for a shorter stream or an id outside the vocabulary, ConfigError above 2^21 - 1 ids.
    """
    if vocab_size > LARGEST_VOCABULARY:
        raise ConfigError(
            "the vocabulary is too large for a trigram model",
            where="config.evals.trigram",
            why=f"{vocab_size} ids, at most {LARGEST_VOCABULARY}",
            do="leave the n-gram evaluation out",
        )
    tokens = _checked(tokens, vocab_size, 3, "the tokens to count")
    triples = (tokens[:-2] * vocab_size + tokens[1:-1]) * vocab_size + tokens[2:]
    trigrams, counts = np.unique(triples, return_counts=True)
    # Lower orders: each different trigram is one context in which its bigram was seen, and so on down.
    bigrams, before_bigrams = np.unique(trigrams % vocab_size**2, return_counts=True)
    unigrams, before_unigrams = np.unique(bigrams % vocab_size, return_counts=True)
    orders = ((unigrams, before_unigrams), (bigrams, before_bigrams), (trigrams, counts))
    return Trigram(vocab_size, tuple(_level(ngrams, counted, vocab_size) for ngrams, counted in orders))


def fill_in(model: Trigram, tokens: np.ndarray, positions: np.ndarray, hidden: bool = False) -> np.ndarray:
    """int64[m], the likeliest word at each position: argmax over w of p(w | u v) p(x | v w) p(y | w x).

    tokens: int[n] in order, u v _ x y the true neighbours; positions: int[m]. `hidden`: the other positions are unknown too,
    as they are to a model that has to fill in all of them; otherwise the baseline is generous. What reaches beyond the ends or
    needs an unknown neighbour is left out. Exact for any vocabulary: every word is weighed, in some passes over V numbers for
    each position (about 0.2 ms at 1,000 ids, 1.2 ms at 32,000).

    Raises DataError for an id outside the vocabulary.
    """
    tokens = _checked(tokens, model.vocab_size, 1, "the tokens to fill in")
    around = np.concatenate([[-1, -1], tokens, [-1, -1]])
    if hidden:
        around[np.asarray(positions, np.int64) + 2] = -1
    return np.array([_weighed(model, *around[place : place + 5].tolist()).argmax() for place in positions], np.int64)


def _weighed(model: Trigram, u: int, v: int, _: int, x: int, y: int) -> np.ndarray:
    """float64[V]: how likely each word is between u v and x y, not normalised."""
    result = model.following(u, v)
    if x >= 0:
        result = result * model._preceding(v, x)
    if x >= 0 and y >= 0:
        result = result * model._enclosing(x, y)
    return result


def next_words(model: Trigram, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """int64[m], the likeliest word at each position after the two TRUE ones before it: spans filled in from the left.

    tokens: int[n]; positions: int[m]. Raises DataError for an id outside the vocabulary.
    """
    tokens = _checked(tokens, model.vocab_size, 1, "the tokens to fill in")
    around = np.concatenate([[-1, -1], tokens])
    return np.array([model.following(*around[place : place + 2].tolist()).argmax() for place in positions], np.int64)


def _level(ngrams: np.ndarray, counts: np.ndarray, vocab_size: int) -> Level:
    contexts, starts, types = np.unique(ngrams // vocab_size, return_index=True, return_counts=True)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    # Where one of them is missing the estimate is 0 or 1: nothing, or all of a single count, would pass below.
    discount = once / (once + 2 * twice) if once and twice else 0.5
    return Level(ngrams, counts, contexts, np.add.reduceat(counts, starts), types, discount)


def _lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is missing; `keys` are sorted."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def _checked(tokens: np.ndarray, vocab_size: int, least: int, where: str) -> np.ndarray:
    tokens = np.asarray(tokens).astype(np.int64).reshape(-1)
    if len(tokens) < least:
        why = f"{len(tokens)} tokens, needs {least}"
        raise DataError("too few tokens for a trigram model", where=where, why=why, do="add text")
    Vocabulary(vocab_size).check(tokens, where)
    return tokens
