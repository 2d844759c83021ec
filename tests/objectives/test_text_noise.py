"""Noise for whole texts: sentences permuted, spans infilled, and the options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretrainx.objectives import text_noise
from pretrainx.objectives.text_noise import TextNoise

SIZE, MASK, PAD = 60, 50, 0
TOKENS = jnp.arange(100, 100 + SIZE, dtype=jnp.int32)
QUIET = TextNoise(infilling=0.0, permute_sentences=False)
WHOLE = TextNoise()


@functools.cache
def noising(noise):
    """(keys, length, sentences, words) -> (texts, lengths)."""
    one = lambda key, length, sentences, words: text_noise.noised(
        key, TOKENS, length, sentences, words, noise, MASK, PAD
    )
    return jax.jit(jax.vmap(one, (0, None, None, None)))


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def noised(noise, count=200, length=SIZE, sentences=None, words=None, seed=0):
    """Rows without their padding; what lies behind the length is checked to be empty."""
    flags = lambda given: jnp.zeros(SIZE, bool) if given is None else jnp.asarray(given)
    texts, sizes = noising(noise)(keys(count, seed), length, flags(sentences), None if words is None else flags(words))
    texts, sizes = np.asarray(texts), np.asarray(sizes)
    assert (sizes <= SIZE).all()
    assert not texts[np.arange(SIZE) >= sizes[:, None]].any() and texts[np.arange(SIZE) < sizes[:, None]].all()
    return [text[:size] for text, size in zip(texts, sizes, strict=True)]


def test_nothing_is_done_without_noise():
    assert all(np.array_equal(text, TOKENS) for text in noised(QUIET, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, SIZE), st.sampled_from([0.05, 0.3, 1.0]))
def test_permutation_keeps_sentences(seed, length, often):
    """Whole sentences in another order, no token lost; what is no sentence's end at the end is one."""
    ends = np.random.default_rng(seed).random(SIZE) < often
    noise = TextNoise(infilling=0.0)
    found = noised(noise, 1, length, ends, seed=seed)[0].tolist()
    assert sorted(found) == list(range(100, 100 + length))
    borders = [0, *(place + 1 for place in range(length - 1) if ends[place]), length]
    sentences = [list(range(100 + first, 100 + last)) for first, last in zip(borders, borders[1:], strict=False)]
    rest = found
    while rest:
        mine = next(sentence for sentence in sentences if sentence[0] == rest[0])
        assert rest[: len(mine)] == mine
        rest = rest[len(mine) :]


def test_all_orders_are_equally_likely():
    """4 sentences, 24 orders: a chi-square."""
    ends = np.isin(np.arange(SIZE), [4, 9, 30])
    draw = jax.jit(jax.vmap(lambda key: text_noise.sentence_order(key, jnp.asarray(ends), jnp.int32(40))))
    kinds, counts = np.unique(np.asarray(draw(keys(12_000))), axis=0, return_counts=True)
    assert len(kinds) == 24 and stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("mean", [0.0, 0.5, 3.0, 12.0])
def test_lengths_are_poisson(mean):
    """Before trimming: a chi-square over the lengths that 20,000 draws should show at least 5 times."""
    drawn = np.asarray(text_noise.poisson_lengths(jax.random.key(1), mean, 20_000))
    expected = 20_000 * stats.poisson.pmf(np.arange(60), mean)
    often = expected >= 5
    counts = np.bincount(drawn, minlength=60)
    rest = 20_000 - expected[often].sum()
    if rest < 1e-6:
        assert (counts[~often] == 0).all()
    else:
        expected = np.append(expected[often], rest)
        assert stats.chisquare(np.append(counts[often], counts[~often].sum()), expected).pvalue > 1e-4


def test_budget_is_exact():
    assert [text_noise.budget(words, 0.3) for words in (0, 1, 3, 4, 10, 11, 20)] == [0, 1, 1, 2, 3, 4, 6]


def brute(starts, length, at):
    """(kept, masked) of spans {word: words}, by the definition: each span's words go, its first token stands for them."""
    words = np.flatnonzero(starts)
    words = np.append(words, length)
    kept, masked = np.arange(len(starts)) < length, np.zeros(len(starts), bool)
    masked[words[list(at)]] = True
    for word, count in at.items():
        last = words[min(word + count, len(words) - 1)]
        kept[words[word] + 1 : last] = False
    return kept, masked & kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, SIZE), st.sampled_from([0.05, 0.4, 1.0]))
def test_infilling_by_brute_force(seed, length, often):
    """The spans that the same draws choose, laid out word by word; a span never crosses the end of the text."""
    real = np.arange(SIZE) < length
    starts = (np.random.default_rng(seed).random(SIZE) < often) & real
    starts[0] = length > 0
    key = jax.random.key(seed)
    kept, masked, inserts = map(np.asarray, infill(key, starts, real))
    to_lengths, to_places = jax.random.split(key)
    drawn = lengths_of(to_lengths)
    order = np.argsort(np.asarray(sort_keys(to_places))[: starts.sum()], kind="stable")
    allowed = text_noise.budget(int(starts.sum()), 0.3)
    at, none = {}, 0
    for count in drawn.tolist()[: text_noise.DRAWS_PER_WORD * allowed]:
        left = allowed - sum(at.values())
        if left and count:
            at[int(order[len(at)])] = min(count, left)
        elif left:
            none += 1
    expected = brute(starts, length, at)
    np.testing.assert_array_equal(kept, expected[0])
    np.testing.assert_array_equal(masked, expected[1])
    assert inserts == none
    assert sum(at.values()) == allowed


@jax.jit
def infill(key, starts, real):
    return text_noise.infilling(key, starts, real, 0.3, 3.0)


@jax.jit
def lengths_of(key):
    return text_noise.poisson_lengths(key, 3.0, text_noise.DRAWS_PER_WORD * text_noise.budget(SIZE, 0.3))


@jax.jit
def sort_keys(key):
    return text_noise.random_order(key, SIZE)


def test_infilled_texts():
    """Kept tokens in their order, each run that is gone with a mask for it; 30 % of the words but for what spans share."""
    removed = 0
    for text in noised(TextNoise(permute_sentences=False), 300):
        plain = text[text != MASK]
        assert (np.diff(plain) > 0).all()
        removed += SIZE - len(plain)
        for place in np.flatnonzero(np.diff(plain) > 1):  # a gap has its mask
            first, last = (np.flatnonzero(text == plain[place + each])[0] for each in (0, 1))
            assert last - first > 1
    assert 0.24 < removed / 300 / SIZE < 0.30


def test_words_go_as_a_whole():
    """Three tokens a word: of each word all or nothing is kept."""
    words = np.arange(SIZE) % 3 == 0
    for text in noised(WHOLE, 50, words=words):
        plain = text[text != MASK]
        assert (np.bincount((plain - 100) // 3)[np.unique((plain - 100) // 3)] == 3).all()


def test_without_length_there_are_only_insertions():
    """lambda = 0: the text stands whole, masks lie between its tokens; a full row has room for none."""
    noise = TextNoise(poisson=0.0, permute_sentences=False)
    for text in noised(noise, 50, length=20):
        assert np.array_equal(text[text != MASK], TOKENS[:20])
        assert (text == MASK).sum() == text_noise.DRAWS_PER_WORD * 6
    assert all(np.array_equal(text, TOKENS) for text in noised(noise, 5))


def test_masks_are_put_in_anywhere():
    """One mask among 4 tokens: 5 places, equally likely."""
    tokens = jnp.asarray([7, 8, 9, 6, 0, 0, 0], jnp.int32)
    one = lambda key: text_noise.inserted(key, tokens, tokens > 0, jnp.int32(1), MASK, PAD)[0]
    found = np.asarray(jax.jit(jax.vmap(one))(keys(5000)))
    assert ((found == MASK).sum(1) == 1).all()
    counts = np.bincount(np.argmax(found == MASK, axis=1))
    assert len(counts) == 5 and stats.chisquare(counts).pvalue > 1e-4


def test_options():
    """Masks in place, tokens gone, the text begun elsewhere: each at its rate."""
    masked = noised(TextNoise(infilling=0.0, permute_sentences=False, masking=0.25), 400)
    assert all(len(text) == SIZE and np.isin(text, [*np.asarray(TOKENS), MASK]).all() for text in masked)
    assert abs(np.mean([(text == MASK).mean() for text in masked]) - 0.25) < 0.02
    deleted = noised(TextNoise(infilling=0.0, permute_sentences=False, deletion=0.25), 400)
    assert all((np.diff(text) > 0).all() and MASK not in text for text in deleted)
    assert abs(np.mean([len(text) for text in deleted]) / SIZE - 0.75) < 0.02
    turned = noised(TextNoise(infilling=0.0, permute_sentences=False, rotation=0.5), 400, length=10)
    first = np.array([text[0] - 100 for text in turned])
    assert all(np.array_equal(np.roll(text, text[0] - 100), TOKENS[:10]) for text in turned)
    assert set(first) == set(range(10)) and abs((first > 0).mean() - 0.45) < 0.1


def test_only_real_tokens_matter():
    """What lies behind the length, tokens and flags alike, changes nothing."""
    rng = np.random.default_rng(0)
    flags = rng.random((2, SIZE)) < 0.4
    other = np.where(np.arange(SIZE) < 25, flags, ~flags)
    noise = TextNoise(masking=0.1, deletion=0.1, rotation=0.5)

    def run(tokens, sentences, words):
        one = lambda key: text_noise.noised(key, tokens, jnp.int32(25), sentences, words, noise, MASK, PAD)
        return jax.vmap(one)(keys(20))

    run = jax.jit(run)
    for mine, theirs in zip(run(TOKENS, *flags), run(TOKENS.at[25:].set(9), *other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
