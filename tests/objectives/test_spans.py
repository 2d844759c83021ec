"""Hidden spans: their number, their law, and that nothing of the text is lost."""

import functools
from decimal import ROUND_HALF_EVEN, Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretrainx.objectives import spans

SENTINELS, END, PAD = tuple(range(9999, 9799, -1)), 1, 0
TABLE = [
    (64, 70, 14, 10, 3),
    (128, 141, 29, 21, 7),
    (256, 284, 58, 43, 14),
    (512, 568, 114, 85, 28),
    (1024, 1137, 229, 171, 57),
    (2048, 2274, 456, 341, 114),
]


@functools.cache
def corrupting(raw, density=0.15, mean_span=3.0):
    """(keys, tokens[raw], length) -> the four arrays of each key."""
    one = lambda key, tokens, length: spans.corrupted(key, tokens, length, density, mean_span, SENTINELS, END, PAD)
    return jax.jit(jax.vmap(one, (0, None, None)))


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def text(raw):
    return jnp.arange(100, 100 + raw, dtype=jnp.int32)


def recovered(source, targets):
    """The text of a source and its targets: each sentinel gives way to its span. Both must be well formed."""
    source, targets = source.tolist(), targets.tolist()
    assert source[-1] == targets[-1] == END
    hidden = {}
    for token in targets[:-1]:
        if token in SENTINELS:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    used = [token for token in source if token in SENTINELS]
    assert used == list(hidden) == list(SENTINELS[: len(used)])  # each once, in the order of their use
    assert all(hidden.values())
    found = []
    for token in source[:-1]:
        found += hidden.get(token, [token])
    return found


@pytest.mark.parametrize(("source", "raw", "target", "noise", "count"), TABLE)
def test_lengths(source, raw, target, noise, count):
    """The published table, from the rule alone."""
    assert spans.raw_length(source, 0.15, 3.0) == raw
    assert spans.lengths_of(raw, 0.15, 3.0) == spans.SpanLengths(raw, source, target, noise, count)
    assert spans.counts(raw, 0.15, 3.0) == (noise, count)


@pytest.mark.parametrize(("source", "raw", "target", "noise", "count"), TABLE[:4])
def test_rows_are_full_for_every_seed(source, raw, target, noise, count):
    """A stream needs no padding: the text comes back, and no place is empty."""
    sources, source_lengths, targets, target_lengths = map(np.asarray, corrupting(raw)(keys(16), text(raw), raw))
    assert sources.shape == (16, source) and targets.shape == (16, target)
    assert (source_lengths == source).all() and (target_lengths == target).all()
    for row in range(16):
        assert recovered(sources[row], targets[row]) == list(range(100, 100 + raw))
        assert np.isin(targets[row], SENTINELS).sum() == count
    assert len({row.tobytes() for row in sources}) == 16


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 70))
def test_shorter_rows(seed, length):
    """The same law of their own length; nothing behind it is read, and padding follows."""
    tokens = jnp.where(jnp.arange(70) < length, text(70), 77)
    source, source_length, targets, target_length = (
        np.asarray(x)[0] for x in corrupting(70)(keys(1, seed), tokens, length)
    )
    noise, count = spans.counts(length, 0.15, 3.0)
    assert source_length == length - noise + count + 1 and target_length == noise + count + 1
    assert recovered(source[:source_length], targets[:target_length]) == list(range(100, 100 + length))
    assert not source[source_length:].any() and not targets[target_length:].any()
    if length > 1:  # begins with kept text, ends with a hidden span
        assert source[0] == 100 and targets[target_length - 2] == 100 + length - 1


def test_a_full_row_is_a_row_of_its_length():
    """A stream's rows, whose length is a number, and rows that carry theirs give the same arrays."""
    key, tokens = jax.random.key(3), text(70)
    one = lambda length: spans.corrupted(key, tokens, length, 0.15, 3.0, SENTINELS, END, PAD)
    for fixed, traced in zip(jax.jit(lambda: one(70))(), jax.jit(one)(70), strict=True):
        np.testing.assert_array_equal(fixed, traced)


def test_numbers_are_exact():
    """Halves to even, of the decimals that were written: in binary 0.15 x 70 is no half."""
    rounded = lambda x: int(x.quantize(Decimal(1), ROUND_HALF_EVEN))
    for density, mean_span in (("0.15", "3"), ("0.5", "3"), ("0.15", "8"), ("0.35", "2.5")):
        noise, count = spans.tables(400, float(density), float(mean_span))
        assert noise[:2].tolist() == count[:2].tolist() == [0, 0]
        for length in range(2, 401):
            expected = min(max(rounded(length * Decimal(density)), 1), length - 1)
            assert noise[length] == expected
            assert count[length] == min(
                max(1, rounded(Decimal(expected) / Decimal(mean_span))), expected, length - expected
            )
    assert spans.counts(30, 0.15, 3.0)[0] == 4 and spans.counts(50, 0.15, 3.0)[0] == 8


@pytest.mark.parametrize(("density", "mean_span"), [(0.15, 3.0), (0.5, 3.0), (0.15, 32.0), (0.5, 32.0), (0.6, 3.0)])
def test_inputs_are_filled(density, mean_span):
    """The largest text that fits, and it fits exactly."""
    for length in range(3, 200):
        raw = spans.raw_length(length, density, mean_span)
        assert spans.lengths_of(raw, density, mean_span).source == length
        assert spans.lengths_of(raw + 1, density, mean_span).source > length
    assert spans.raw_length(2, density, mean_span) == 0


def test_all_compositions_are_equally_likely():
    """6 kept and 6 hidden tokens in 3 parts each: 10 x 10 ways, a chi-square of 20,000 draws, in a row of more room."""
    draw = jax.jit(jax.vmap(lambda key: jnp.stack(spans.span_ends(key, jnp.int32(12), 20, 0.5, 2.0)[:2])))
    ends = np.asarray(draw(keys(20_000)))
    assert spans.counts(12, 0.5, 2.0) == (6, 3)
    assert (ends[:, :, 2:] == 6).all() and (np.diff(ends[:, :, :3], prepend=0) > 0).all()
    kinds, counts = np.unique(ends[:, :, :2].reshape(-1, 4), axis=0, return_counts=True)
    assert len(kinds) == 100
    assert stats.chisquare(counts).pvalue > 1e-4
