"""Selection and replacement of tokens: how many, which, by which law; words whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretrainx.objectives import masking

LENGTH, DRAWS = 24, 4000
KEYS = jax.vmap(jax.random.key)(jnp.arange(DRAWS))
# Frames, padding and a special token in the middle are no candidates.
CANDIDATES = np.array([0] + [1] * 9 + [0] + [1] * 8 + [0] * 5, bool)
BEGINS = np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0], bool)
WORDS = [[1, 2], [3], [4, 5, 6], [7, 8, 9], [11], [12, 13, 14, 15, 16], [17, 18]]
LIKELY = 1e-4  # an outcome that a fair draw gives less often than this is a fault; the seeds are fixed


def selected(rule, *arguments, begins=None):
    """bool[DRAWS, T]"""
    drawn = lambda key: rule(key, CANDIDATES, *arguments, masking.units(jnp.asarray(CANDIDATES), begins))
    return np.asarray(jax.jit(jax.vmap(drawn))(KEYS))


def fair(counts, wanted):
    assert stats.chisquare(counts, wanted).pvalue > LIKELY, (counts, wanted)


def test_bernoulli_counts():
    """Each candidate with the same chance, the counts of rows binomial, nothing else ever."""
    found = selected(masking.bernoulli, 0.15)
    assert not found[:, ~CANDIDATES].any()
    count = CANDIDATES.sum()
    for position in np.flatnonzero(CANDIDATES):
        assert stats.binomtest(int(found[:, position].sum()), DRAWS, 0.15).pvalue > LIKELY
    counts = np.bincount(np.minimum(found.sum(1), 7), minlength=8)
    law = stats.binom(count, 0.15)
    fair(counts, DRAWS * np.append(law.pmf(np.arange(7)), law.sf(6)))


def test_exact_counts():
    """Always the budget, every candidate as often; where there are fewer candidates, all of them."""
    found = selected(masking.exact, 4)
    assert not found[:, ~CANDIDATES].any() and (found.sum(1) == 4).all()
    fair(found[:, CANDIDATES].sum(0), np.full(CANDIDATES.sum(), 4 * DRAWS / CANDIDATES.sum()))
    assert (selected(masking.exact, 23)[:5] == CANDIDATES).all()


def test_exact_draws_every_set_as_often():
    candidates = np.array([1, 1, 0, 1, 1, 1], bool)
    draw = lambda key: masking.exact(key, candidates, 2, masking.units(jnp.asarray(candidates)))
    numbers = np.asarray(jax.jit(jax.vmap(draw))(KEYS)) @ (2 ** np.arange(6))
    sets, counts = np.unique(numbers, return_counts=True)
    assert len(sets) == 10
    fair(counts, np.full(10, DRAWS / 10))


def test_budgets():
    """min(most, max(1, round(p n))), halves to even, exactly: 0.15 x 10 is 1.5, 0.15 x 30 is 4.5."""
    found = masking.budgets(512, 0.15, 80)
    assert [found[n] for n in (1, 2, 10, 30, 128, 512)] == [1, 1, 2, 4, 19, 77]
    assert masking.budgets(512, 0.15, 20).max() == 20


def test_words():
    drawn = masking.units(jnp.asarray(CANDIDATES), jnp.asarray(BEGINS))
    found = [np.flatnonzero((drawn.numbers == number) & CANDIDATES).tolist() for number in range(LENGTH)]
    assert [word for word in found if word] == WORDS
    np.testing.assert_array_equal(drawn.sizes, [len(word) for word in found])


@pytest.mark.parametrize("rule, argument", [(masking.bernoulli, 0.3), (masking.exact, 5)], ids=["bernoulli", "exact"])
def test_whole_words(rule, argument):
    """All of a word or nothing of it; the chance of a word is the fraction, the budget is never exceeded."""
    found = selected(rule, argument, begins=BEGINS)
    assert not found[:, ~CANDIDATES].any()
    for word in WORDS:
        assert (found[:, word].all(1) == found[:, word].any(1)).all()
        if rule is masking.bernoulli:
            assert stats.binomtest(int(found[:, word[0]].sum()), DRAWS, 0.3).pvalue > LIKELY
    if rule is masking.exact:
        assert (found.sum(1) <= 5).all() and (found.sum(1) == 5).mean() > 0.8
        left = 5 - found.sum(1)
        for word in WORDS:
            assert (found[:, word[0]] | (len(word) > left)).all(), "a word that fits was left out"


@jax.jit
def exact_and_order(key, candidates, begins, budget):
    drawn = masking.units(candidates, begins)
    order = jnp.argsort(jax.random.bits(key, candidates.shape, jnp.uint32))
    return masking.exact(key, candidates, budget, drawn), drawn, order


flags = st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH).map(np.array)


@settings(deadline=None, max_examples=80)
@given(flags, flags, flags, st.integers(0, LENGTH), st.integers(0, 2**31 - 1))
def test_words_are_taken_as_one_by_one(one, two, begins, budget, seed):
    """Rounds select what a loop over the words in the drawn order selects that skips what does not fit."""
    candidates = one | two
    leaves = jax.tree.leaves(exact_and_order(jax.random.key(seed), candidates, begins, budget))
    found, numbers, sizes, order = map(np.asarray, leaves)
    wanted, left = np.zeros(LENGTH, bool), budget
    for word in order:
        if 0 < sizes[word] <= left:
            wanted |= (numbers == word) & candidates
            left -= sizes[word]
    np.testing.assert_array_equal(found, wanted)


def test_what_stands_in_the_place():
    """80 % mask, 10 % a random ordinary id, its own one included, 10 % itself; what is not selected stays."""
    tokens, chosen = jnp.full(LENGTH, 7), jnp.asarray(CANDIDATES)
    replace = lambda key: masking.replaced(key, tokens, chosen, 3, 0.8, 0.1, 12, (0, 3, 5, 11, 50))
    found = np.asarray(jax.jit(jax.vmap(replace))(KEYS))
    assert found.dtype == np.int32 and (found[:, ~CANDIDATES] == 7).all()
    counts = np.bincount(found[:, CANDIDATES].ravel(), minlength=12)
    ordinary = [1, 2, 4, 6, 7, 8, 9, 10]
    assert not counts[[0, 5, 11]].any()
    shares = np.array([0.8] + [0.1 / 8 + 0.1 * (token == 7) for token in ordinary])
    fair(counts[[3, *ordinary]], counts.sum() * shares)


@pytest.mark.parametrize("probabilities, wanted", [((1.0, 0.0), {3}), ((0.0, 0.0), {7}), ((0.0, 1.0), set(range(12)))])
def test_one_kind_of_replacement(probabilities, wanted):
    replace = lambda key: masking.replaced(key, jnp.full(LENGTH, 7), jnp.ones(LENGTH, bool), 3, *probabilities, 12)
    assert set(np.asarray(jax.vmap(replace)(KEYS[:40])).ravel().tolist()) == wanted


@pytest.mark.parametrize("never", [(), (0,), (9,), (0, 1, 2), (3, 8, 4, 9), (0, 2, 4, 6, 8, 12)])
def test_random_ids_are_uniform_over_the_ordinary(never):
    found = np.asarray(masking.random_ids(jax.random.key(1), (5000,), 10, never))
    ordinary = [token for token in range(10) if token not in never]
    counts = np.bincount(found, minlength=10)
    assert counts[ordinary].sum() == 5000
    fair(counts[ordinary], np.full(len(ordinary), 5000 / len(ordinary)))


def test_gathered_positions():
    weights = jnp.array([0, 1, 0, 0, 0.5, 1, 0], jnp.float32)
    positions, found = masking.gather_positions(weights, 5)
    assert positions.tolist() == [1, 4, 5, 0, 2] and found.tolist() == [1, 0.5, 1, 0, 0]
    positions, found = masking.gather_positions(weights, 2)
    assert positions.tolist() == [1, 4] and found.tolist() == [1, 0.5]
    assert masking.first(weights > 0, 2).tolist() == [False, True, False, False, True, False, False]


@pytest.mark.parametrize("length, fraction", [(16, 0.15), (128, 0.15), (512, 0.15), (512, 0.4)])
def test_the_bound_of_bernoulli_is_hardly_ever_passed(length, fraction):
    bound = masking.bernoulli_bound(length, fraction, False)
    assert stats.binom(length, fraction).sf(bound) < 2e-7
    assert bound < length and masking.bernoulli_bound(length, fraction, True) >= bound


def test_masks_do_not_depend_on_the_default_precision():
    def draw(key):
        drawn = masking.units(jnp.asarray(CANDIDATES), jnp.asarray(BEGINS))
        chosen = masking.exact(key, CANDIDATES, 6, drawn), masking.bernoulli(key, CANDIDATES, 0.15, drawn)
        return *chosen, masking.replaced(key, jnp.arange(LENGTH), CANDIDATES, 3, 0.4, 0.4, 30, (2, 3))

    narrow = jax.jit(jax.vmap(draw))(KEYS[:50])
    with jax.enable_x64(True):
        wide = jax.jit(jax.vmap(draw))(KEYS[:50])
    jax.tree.map(np.testing.assert_array_equal, narrow, wide)
    assert [x.dtype for x in narrow] == [x.dtype for x in wide]
