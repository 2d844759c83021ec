"""The trigram baseline is a distribution, agrees with counting by hand, and is quick."""

import itertools
import math
import time
from collections import Counter, defaultdict

import numpy as np
import pytest

from pretrainx.core.errors import ConfigError, DataError
from pretrainx.evals.ngram import fill_in, fit, next_words


def by_hand(tokens, size):
    """p(word | second_last, last) of interpolated Kneser-Ney, from dictionaries, one n-gram at a time."""
    trigrams = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    bigrams = Counter(gram[1:] for gram in trigrams)
    unigrams = Counter(gram[1:] for gram in bigrams)

    def model(counts, lower):
        singles, doubles = (sum(count == wanted for count in counts.values()) for wanted in (1, 2))
        discount = singles / (singles + 2 * doubles) if singles and doubles else 0.5
        totals, types = defaultdict(int), defaultdict(int)
        for gram, count in counts.items():
            totals[gram[:-1]] += count
            types[gram[:-1]] += 1

        def probability(context, word):
            below = lower(context[1:], word)
            if not totals.get(context):
                return below
            kept = max(counts.get((*context, word), 0) - discount, 0)
            return (kept + discount * types[context] * below) / totals[context]

        return probability

    return model(trigrams, model(bigrams, model(unigrams, lambda context, word: 1 / size)))


@pytest.fixture(scope="module")
def stream():
    generator = np.random.default_rng(0)
    # A skewed chain, so that some contexts are frequent, some rare, and words 8 and 9 never seen.
    tokens = [0]
    for draw in generator.random(400):
        tokens.append(int((tokens[-1] * 3 + 8 * draw**3) % 8))
    return np.array(tokens, np.uint16)


def test_probabilities_of_every_context_sum_to_one(stream):
    model = fit(stream, 10)
    contexts = np.array([(u, v) for u in range(-1, 10) for v in range(10)])
    table = np.stack([model.probabilities(*contexts.T, np.full(len(contexts), word)) for word in range(10)])
    assert table.min() > 0
    np.testing.assert_allclose(table.sum(axis=0), 1.0, atol=1e-12)


def test_it_agrees_with_counting_by_hand(stream):
    model, expected = fit(stream, 10), by_hand(stream.tolist(), 10)
    grams = np.array(list(itertools.product(range(10), repeat=3)))
    found = model.probabilities(*grams.T)
    np.testing.assert_allclose(found, [expected((u, v), word) for u, v, word in grams.tolist()], rtol=1e-12)
    assert all(0 < level.discount < 1 for level in model.levels)


def test_loss_is_the_mean_of_minus_log_probability(stream):
    model, other = fit(stream, 10), np.random.default_rng(1).integers(0, 10, 60)
    expected = [-math.log(model.probabilities([-1], [other[0]], [other[1]])[0])]
    for u, v, word in zip(other, other[1:], other[2:], strict=False):
        expected.append(-math.log(model.probabilities([u], [v], [word])[0]))
    np.testing.assert_allclose(model.losses(other), expected, rtol=1e-12)
    assert model.loss(other) == pytest.approx(sum(expected) / 59)
    assert model.loss(other[:2]) == pytest.approx(expected[0])


def test_it_learns_what_a_trigram_can_learn_and_no_more():
    generator = np.random.default_rng(2)
    noise = generator.integers(0, 8, 60_000)
    # What estimating costs: half a nat for each free parameter and token counted, 8 * 8 * 7 / (2 * 50,000) = 0.0045.
    assert 0 < fit(noise[:50_000], 8).loss(noise[50_000:]) - math.log(8) < 2 * 0.0045
    # Each token is the sum of the two before it, modulo 8, three times in four.
    planted = noise.copy()
    for place in range(2, len(planted)):
        if generator.random() < 0.75:
            planted[place] = (planted[place - 1] + planted[place - 2]) % 8
    right = 0.75 + 0.25 / 8
    entropy = -right * math.log(right) - (1 - right) * math.log(0.25 / 8)
    # The held-out part's own surprise, in place of its expectation: 10,000 tokens miss that by about 0.01.
    hits = (planted[50_000:][2:] == (planted[50_000:][1:-1] + planted[50_000:][:-2]) % 8).mean()
    least = -hits * math.log(right) - (1 - hits) * math.log(0.25 / 8)
    assert abs(least - entropy) < 0.05
    assert 0 < fit(planted[:50_000], 8).loss(planted[50_000:]) - least < 3 * 0.0045


def test_a_million_tokens_are_counted_quickly():
    generator = np.random.default_rng(3)
    tokens = (generator.zipf(1.3, 1_000_000) % 1024).astype(np.uint16)
    started = time.perf_counter()
    model = fit(tokens, 1024)
    fitted = time.perf_counter()
    model.loss(tokens[:200_000])
    print(f"fit {fitted - started:.2f} s for 1M tokens, loss {time.perf_counter() - fitted:.2f} s for 0.2M")
    assert fitted - started < 5


def test_filling_in_weighs_every_word_by_three_factors(stream):
    """Against the probabilities of single words, also for unknown words and at the ends of a text."""
    model, words = fit(stream, 10), np.arange(10)
    tokens = np.array([3, 1, 9, 4, 0, 2, 8, 7, 5, 5, 6, 1])
    expected, from_left = [], []
    for place in range(len(tokens)):
        u, v, _, x, y = np.concatenate([[-1, -1], tokens, [-1, -1]])[place : place + 5]
        each = lambda id: np.full(10, id)
        if place == 0:  # without a word before, how often a word is seen at all
            score = model.levels[0].interpolate(np.zeros(10, np.int64), words, np.full(10, 0.1))
        else:
            score = model.probabilities(each(u), each(v), words)
        np.testing.assert_allclose(model.following(u, v), score, rtol=1e-12)
        from_left.append(score.argmax())
        if x >= 0:
            score = score * model.probabilities(each(v), words, each(x))
        if y >= 0:
            score = score * model.probabilities(words, each(x), each(y))
        expected.append(score.argmax())
    assert fill_in(model, tokens, np.arange(len(tokens))).tolist() == expected
    assert next_words(model, tokens, np.arange(len(tokens))).tolist() == from_left != expected
    with pytest.raises(DataError, match="vocabulary size 10"):
        fill_in(model, np.array([10]), np.array([0]))


def test_both_sides_tell_more_than_one():
    generator = np.random.default_rng(4)
    words = [[5, 1, 2], [5, 3, 4]]  # after 5, only what follows tells which word it is
    tokens = np.concatenate([words[draw] for draw in generator.integers(0, 2, 800)])
    model, places = fit(tokens[:1800], 6), np.arange(1, 600, 3)
    held_out = tokens[1800:]
    assert (fill_in(model, held_out, places) == held_out[places]).all()
    assert 0.3 < (next_words(model, held_out, places) == held_out[places]).mean() < 0.7
    # What else is to be filled in tells nothing: the ambiguous word and what follows it, both hidden.
    neighbours = np.sort(np.concatenate([places, places + 1]))
    told = fill_in(model, held_out, neighbours, hidden=True) == held_out[neighbours]
    assert 0.3 < told[::2].mean() < 0.7
    shuffled = held_out.copy()
    shuffled[neighbours] = 0
    again = fill_in(model, shuffled, neighbours, hidden=True)
    assert (again == fill_in(model, held_out, neighbours, hidden=True)).all()


def test_what_cannot_be_counted_is_refused(stream):
    with pytest.raises(DataError, match="vocabulary size 7"):
        fit(stream, 7)
    with pytest.raises(DataError, match="vocabulary size 10"):
        fit(stream, 10).loss(np.array([1, 10]))
    with pytest.raises(DataError, match="too few"):
        fit(stream[:2], 10)
    with pytest.raises(DataError, match="too few"):
        fit(stream, 10).loss(stream[:1])
    with pytest.raises(ConfigError, match="too large"):
        fit(stream, 2**21)
