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
        totals = _lookup(self.contexts, self.totals, contexts)
        kept = np.maximum(counts - self.discount, 0.0)
        freed = self.discount * _lookup(self.contexts, self.types, contexts)
        return np.where(totals > 0, (kept + freed * lower) / np.maximum(totals, 1), lower)


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
